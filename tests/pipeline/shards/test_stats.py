"""Statistics: what the sidecars say, of these shards, as they were counted."""

import json

import numpy as np
import pyarrow as pa
import pytest
from alexprep.pipeline import DataError, Records, compute_stats, load_stats, read_manifest

from ...support.commands import command
from ...support.shards import edit, unbound, write_statistics


def test_a_sidecar_that_disagrees_with_its_pixel_sums_is_refused(copy):
    edit(copy / "train-00000-of-00002.arrow.json", lambda s: s["moments"]["total"].__setitem__(0, 1))

    with pytest.raises(DataError, match="the sums cannot be used .they are not those that were counted"):
        compute_stats(read_manifest(copy))


def test_pickled_pixel_sums_are_not_opened(copy):
    np.save(copy / "train-00000-of-00002.arrow.pixelsum.npy", np.array([object()]), allow_pickle=True)

    with pytest.raises(DataError, match="the per-pixel sums cannot be used"):
        compute_stats(read_manifest(copy))


@pytest.mark.process
def test_stats_prints_a_table_and_writes_what_the_sidecars_say(copy):
    run = command("alexprep", "stats", copy, "--pca", "--verify")
    value = json.loads((copy / "stats.json").read_text())
    stats = compute_stats(read_manifest(copy))

    assert run.returncode == 0, run.stderr
    assert "eigenvalue" in run.stdout
    assert "after JPEG encoding" in run.stdout
    assert "verified: every sum recomputed from the pixels is the same integer" in run.stdout
    assert value["images"] == 130
    assert value["pixels"] == 130 * 64 * 64
    assert value["eigenvectors"] == stats.colours.eigenvectors.tolist()
    assert np.array_equal(np.load(copy / "mean_image.npy"), stats.mean_image)
    loaded = load_stats(read_manifest(copy))
    assert np.array_equal(loaded.mean_image, stats.mean_image)
    assert np.array_equal(loaded.colours.covariance, stats.colours.covariance)


@pytest.mark.process
def test_without_pca_there_are_no_eigenvectors_in_the_file(copy):
    value = json.loads(command("alexprep", "stats", copy, "--json").stdout)

    assert set(value) == {"split", "images", "pixels", "mean", "covariance", "plan", "counted", "sha256"}


@pytest.mark.process
def test_verify_notices_one_changed_sum_of_an_early_release(copy):
    """A sidecar that is consistent in itself, but not with the pixels."""
    edit(unbound(copy) / "train-00000-of-00002.arrow.json", lambda s: s["moments"]["outer"][0].__setitem__(0, s["moments"]["outer"][0][0] + 1))
    run = command("alexprep", "stats", copy, "--verify")

    assert run.returncode == 1
    assert "not those of the sidecars" in run.stderr
    assert not (copy / "stats.json").exists()


@pytest.mark.process
def test_verify_notices_one_changed_byte_and_a_label_out_of_range_is_never_trained_on(copy):
    path = copy / "train-00000-of-00002.arrow"
    content = bytearray(path.read_bytes())
    with pa.memory_map(str(path)) as file:
        labels = pa.ipc.open_file(file).get_batch(0).column("label").to_numpy().tobytes()
    start = content.index(labels)
    content[start : start + 8] = (10**9).to_bytes(8, "little")
    path.write_bytes(content)
    run = command("alexprep", "stats", copy, "--verify")

    assert run.returncode == 1
    assert "train-00000-of-00002.arrow is not as it was written (its SHA-256 differs)" in run.stderr
    with pytest.raises(DataError, match=r"labels outside 0\.\.1"):
        Records(read_manifest(copy), "train").labels(np.array([0]))


@pytest.mark.parametrize("change", [{"eigenvalues": [-1, 1, 1]}, {"mean": [float("nan"), 1, 1]}, {"images": float("inf")}], ids=str)
def test_numbers_that_no_images_have_are_refused(copy, change):
    write_statistics(copy)
    edit(copy / "stats.json", lambda s: s.update(change))

    with pytest.raises(DataError, match="run alexprep stats --pca again"):
        load_stats(read_manifest(copy))


def test_a_sidecar_of_another_job_is_refused(copy):
    edit(copy / "train-00000-of-00002.arrow.json", lambda s: s.update(plan="x"))

    with pytest.raises(DataError, match="is of another job"):
        compute_stats(read_manifest(copy))


def test_statistics_of_other_shards_are_not_used(copy):
    write_statistics(copy)
    edit(copy / "stats.json", lambda s: s.update(plan="0", mean=[0, 0, 0]))

    assert load_stats(read_manifest(copy)).colours.mean.min() > 1


def test_damaged_statistics_are_named(copy):
    write_statistics(copy)
    (copy / "mean_image.npy").write_bytes(b"\x93NUMPY")

    with pytest.raises(DataError, match="run alexprep stats --pca again"):
        load_stats(read_manifest(copy))
