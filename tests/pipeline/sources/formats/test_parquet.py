"""Parquet: every spelling of Arrow, the names of classes in it, and what its rows tell."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from alexprep.pipeline.sources import find_source

from ....support.images import jpeg, picture
from ....support.shards import make_shards
from ....support.sources import every_image, hugging_face, listed, names, refusal, splits_of, table


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


def test_integers_are_the_labels_and_texts_beside_them_descriptions(tmp_path):
    table(tmp_path / "train.parquet", range(3), label=["a tench", "a/goldfish", "x"], fine_label=[0, 1, 2])
    table(tmp_path / "b/train.parquet", range(3), label=[0.5, 0.1, 0.2], target=[0, 1, 2])
    table(tmp_path / "c/train.parquet", range(3), label=pa.nulls(3), cls=[0, 1, 2])

    for where in (tmp_path / "train.parquet", tmp_path / "b", tmp_path / "c"):
        assert find_source(where).classes == ["0", "1", "2"]


def test_a_column_of_paths_is_not_one_of_images(tmp_path):
    columns = {"image": ["a/0.jpg", "a/1.jpg"], "bytes": [jpeg(picture(0)), jpeg(picture(1))], "label": [0, 1]}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")

    assert sorted(every_image(find_source(tmp_path)).values()) == sorted(columns["bytes"])


def test_a_list_with_a_byte_that_is_missing_is_one_unusable_image(tmp_path):
    image = pa.array([list(jpeg(picture(0))), [255, None]], pa.list_(pa.uint8()))
    pq.write_table(pa.table({"image": image, "label": [0, 0]}), tmp_path / "train.parquet")
    manifest = make_shards(tmp_path / "train.parquet", tmp_path / "out", size=16, max_bad=0.5)

    assert (manifest.splits["train"].records, manifest.splits["train"].quarantined) == (1, 1)


def test_class_names_are_those_of_the_labels_own_column(tmp_path):
    hugging_face(tmp_path / "train.parquet", {"coarse": names("X", "Y", "Z"), "label": names("cat", "dog", "emu")}, coarse=[2, 1, 0], label=[0, 1, 2])
    hugging_face(tmp_path / "other/train.parquet", {"coarse": names("X", "Y", "Z")}, coarse=[2, 1, 0], label=[0, 1, 2])

    assert find_source(tmp_path / "train.parquet").classes == ["cat", "dog", "emu"]
    assert find_source(tmp_path / "other").classes == ["0", "1", "2"]


def test_a_class_of_the_files_list_keeps_its_label_without_an_image_and_the_sources_order_can_be_had(tmp_path):
    hugging_face(tmp_path / "train.parquet", {"label": names("dog", "cat", "emu", "bee")}, label=[0, 2, 2])
    source, theirs = find_source(tmp_path), find_source(tmp_path, "source")

    assert source.classes == ["bee", "cat", "dog", "emu"]
    assert any("another order" in note and "--label-order source" in note for note in source.notes())
    assert theirs.classes == ["dog", "cat", "emu", "bee"]
    assert theirs.listings()[0].labels.tolist() == [0, 2, 2]


def test_a_label_beyond_the_files_class_names_is_refused(tmp_path):
    hugging_face(tmp_path / "train.parquet", {"label": names("a", "b", "c")}, label=[1, 2, 3])

    assert "has the label 3, but the files name 3 classes" in refusal(tmp_path)
    assert find_source(tmp_path, first_label=1).classes == ["a", "b", "c"]


def test_files_that_name_their_classes_differently_are_refused(tmp_path):
    hugging_face(tmp_path / "train-0.parquet", {"label": names("a", "b", "c")}, label=[0, 1, 2])
    hugging_face(tmp_path / "train-1.parquet", {"label": names("b", "a", "c")}, label=[0, 1, 2])

    assert "name their classes differently" in refusal(tmp_path)


def spelt(kind, images, names, labels):
    """A table of the same images in another spelling."""
    kinds = {
        "plain": (pa.binary(), pa.string(), pa.int64()),
        "large": (pa.large_binary(), pa.large_string(), pa.uint8()),
        "view": (pa.binary_view(), pa.string_view(), pa.int16()),
        "names as bytes": (pa.binary(), pa.binary(), pa.int64()),
        "dictionary": (pa.dictionary(pa.int32(), pa.binary()), pa.dictionary(pa.int32(), pa.large_string()), pa.dictionary(pa.int8(), pa.int64())),
        "lists of uint8": (pa.list_(pa.uint8()), pa.string(), pa.int64()),
        "struct": (pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())]), None, pa.int64()),
        "struct of views": (pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]), None, pa.int64()),
        "struct and a name beside": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), pa.string(), pa.int64()),
    }
    image, name, label = kinds[kind]
    if pa.types.is_list(image):
        images = [list(data) for data in images]
    if pa.types.is_struct(image):
        images = [{"bytes": data, "path": None if name else text} for data, text in zip(images, names, strict=True)]
    columns = {"image": pa.array(images, image), "label": pa.array(labels, label)}
    return pa.table(
        columns if name is None else columns | {"filename": pa.array([n.encode() for n in names] if name == pa.binary() else names, name)}
    )


KINDS = ("plain", "large", "view", "names as bytes", "dictionary", "lists of uint8", "struct", "struct of views", "struct and a name beside")


def small_set():
    ids = ["n01440764", "n01443537"]
    numbers = list(range(8))
    return [jpeg(picture(n)) for n in numbers], [f"{ids[n % 2]}_{n}.JPEG" for n in numbers], [n % 2 for n in numbers]


def shards_of(source, out):
    make_shards(source, out, size=16)
    return (out / "train-00000-of-00001.arrow").read_bytes()


@pytest.fixture(scope="module")
def plain_shard(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    (root / "src").mkdir()
    pq.write_table(spelt("plain", *small_set()), root / "src/train.parquet")
    return shards_of(root / "src", root / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_every_spelling_of_arrow_gives_the_same_shard(plain_shard, tmp_path, kind):
    (tmp_path / "src").mkdir()
    groups = {} if kind == "struct of views" else {"row_group_size": 3}  # pyarrow 26 cannot write a part of one
    pq.write_table(spelt(kind, *small_set()), tmp_path / "src/train.parquet", **groups)

    assert shards_of(tmp_path / "src", tmp_path / "out") == plain_shard


@pytest.mark.process
@pytest.mark.parametrize("writer", ["pandas", "pandas categorical", "polars", "polars categorical", "duckdb", "pyarrow datasets"])
def test_the_files_of_every_writer_give_the_same_shard(plain_shard, tmp_path, writer):
    images, file_names, labels = small_set()
    (tmp_path / "src").mkdir()
    path = tmp_path / "src/train.parquet"
    columns = {"image": images, "filename": file_names, "label": labels}
    if writer.startswith("pandas"):
        import pandas as pd

        frame = pd.DataFrame(columns)
        if "categorical" in writer:
            frame = frame.astype({"filename": "category", "label": "category"})
        frame.to_parquet(path)
    elif writer.startswith("polars"):
        import polars as pl

        frame = pl.DataFrame(columns)
        (frame.with_columns(pl.col("filename").cast(pl.Categorical)) if "categorical" in writer else frame).write_parquet(path, row_group_size=5)
    elif writer == "duckdb":
        import duckdb

        rows = pa.table(columns)  # noqa: F841  (duckdb finds it by its name)
        duckdb.sql("SELECT image, filename, CAST(label AS UTINYINT) AS label FROM rows").write_parquet(str(path))
    else:
        import pyarrow.dataset

        pyarrow.dataset.write_dataset(pa.table(columns), tmp_path / "src", format="parquet", basename_template="train-{i}.parquet")

    assert shards_of(tmp_path / "src", tmp_path / "out") == plain_shard


def test_runs_are_read_as_what_they_stand_for():
    from alexprep.pipeline.sources.formats.parquet import _is_text, _label_column, _stored, _texts

    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["a", "b"], pa.large_string()))

    assert _texts(pa.table({"label": runs}), "label") == ["a", "a", "b"]
    assert _is_text(_stored(runs.type))
    assert _label_column({"label": _stored(runs.type)}) == "label"


def test_images_without_names_have_keys_that_do_not_follow_the_row_groups(tmp_path):
    for size in (2, 5):
        (tmp_path / str(size)).mkdir()
        pq.write_table(
            pa.table({"image": [jpeg(picture(n)) for n in range(5)], "label": [0] * 5}), tmp_path / f"{size}/train.parquet", row_group_size=size
        )

    assert listed(find_source(tmp_path / "2")) == listed(find_source(tmp_path / "5"))


def test_missing_parts_of_a_counted_set_are_named(tmp_path):
    for number in (0, 2):
        table(tmp_path / f"train-{number:05}-of-00004.parquet", [number, number + 9])

    assert any("2 of 4 parts are missing (00001, 00003)" in note for note in find_source(tmp_path).notes())


def test_what_spark_and_dask_lay_beside_parquet_is_passed_over(tmp_path):
    table(tmp_path / "train-0.parquet", [0, 1])
    for name in ("_metadata", "_common_metadata", "_SUCCESS"):
        (tmp_path / name).write_bytes(b"PAR1 and no table")

    assert splits_of(tmp_path) == {"train": 2}


def test_folders_around_all_images_of_a_file_say_nothing(tmp_path):
    table(tmp_path / "train.parquet", range(2), filename=["/home/dev/img/0.jpg", "/home/dev/more/1.jpg"])

    assert splits_of(tmp_path) == {"train": 2}
