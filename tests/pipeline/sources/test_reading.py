"""Ranges of files."""

import pytest
from alexprep.pipeline.errors import DataError


def test_io_of_windows_is_bounded(tmp_path):
    from alexprep.pipeline.sources.reading import ByteWindow

    (tmp_path / "f").write_bytes(bytes(100))
    window = ByteWindow(tmp_path / "f", 10, 20)

    assert len(window.read(50)) == 20
    with pytest.raises(DataError, match="a header of"):
        window.read(1 << 21)
    window.close()
