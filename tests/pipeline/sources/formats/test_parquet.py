"""Parquet: every spelling of Arrow, the names of classes in it, and what its rows tell."""

import pyarrow as pa
import pyarrow.parquet as pq
from alexprep.pipeline.sources import find_source

from ....support.images import jpeg, picture


def test_class_names_of_the_files_or_else_numbers_name_the_classes(tmp_path):
    table = pa.table({"image": [jpeg(picture(0))] * 3, "label": [0, 10, 2]})
    pq.write_table(table, tmp_path / "a.parquet")

    assert find_source(tmp_path).classes == ["00", "02", "10"]


def test_images_without_a_label_are_not_read_and_noted(tmp_path):
    images = [{"bytes": jpeg(picture(0)), "path": None}] * 2
    pq.write_table(pa.table({"image": images, "label": pa.array([-1, 0])}), tmp_path / "test-00000-of-00001.parquet")
    source = find_source(tmp_path)

    assert [len(listing) for listing in source.listings()] == [1]
    assert "1 images without a label" in source.notes()[0]
