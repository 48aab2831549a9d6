"""A manifest that is not ours is refused before anything is read."""

import pytest
from alexprep.pipeline import DataError, read_manifest

from ...support.shards import edit


def test_an_unfinished_folder_is_told_from_an_empty_one(copy, tmp_path):
    (copy / "manifest.json").unlink()
    with pytest.raises(DataError, match="unfinished job: run the same alexprep shard command again"):
        read_manifest(copy)
    with pytest.raises(DataError, match="run alexprep shard first"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=2), "format version 2; this release reads version 1"),
        (lambda m: m["splits"]["train"]["shards"][0].update(file="../../etc/passwd"), "cannot be a name in a folder"),
        (lambda m: m["splits"]["train"]["shards"][0].update(rows=-1), "cannot have -1 rows"),
        (lambda m: m.pop("classes"), "not a manifest of ours"),
        (lambda m: m["parameters"].update(size=10**9), "not a manifest of ours"),
        (lambda m: m["parameters"].update(sise=1), "not a manifest of ours"),
        (lambda m: m.update(splits=[]), "not a manifest of ours"),
        (lambda m: m.update(splits={}), "it has no splits"),
        (lambda m: m["parameters"].update(size=64.0), "size must be a whole number"),
        (lambda m: m["splits"]["train"]["shards"][0].update(rows=0), "rows, not the 130 that it says"),
        (lambda m: m["splits"]["val"].update(m["splits"]["train"]), "twice"),
        (lambda m: m["splits"]["train"]["shards"][0].update(file=""), "cannot be a name in a folder"),
        (lambda m: m["splits"]["train"]["shards"][0].update(sha256="../evil"), "cannot have the SHA-256"),
        (lambda m: m["splits"]["train"]["shards"][0].update(rows=True), "a shard has a file, rows, bytes and sha256"),
        (lambda m: m["classes"][0].__setitem__(0, "\ud800"), "not a manifest of ours"),
    ],
    ids=[
        "version",
        "path",
        "negative",
        "no-classes",
        "size",
        "unknown",
        "splits",
        "no-splits",
        "float",
        "rows",
        "twice",
        "no-name",
        "sha256",
        "boolean",
        "half-a-character",
    ],
)
def test_a_strange_manifest_is_refused(copy, change, message):
    edit(copy / "manifest.json", change)

    with pytest.raises(DataError, match=message):
        read_manifest(copy)
