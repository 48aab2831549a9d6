"""Columns of Arrow."""

import numpy as np
import pyarrow as pa
import pytest
from alexprep.pipeline.arrow import numbers, plain, strings


def test_columns_are_numbers_and_back_and_a_missing_number_is_refused():
    """A shard of somebody else's may have nulls where a label should be; what lies in their place is no label."""
    array = numbers(np.arange(9, dtype=np.int32))

    assert plain(array[2:5]).tolist() == [2, 3, 4]
    assert strings([b"a", b"", b"bc"], pa.binary()).to_pylist() == [b"a", b"", b"bc"]
    with pytest.raises(ValueError, match="1 values are missing"):
        plain(pa.array([1, None, 3]))
