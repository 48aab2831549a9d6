"""Receipts, and the pictures drawn from them."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from alexprep.pipeline import DamagedRecord, DataError, Loader, read_manifest
from alexprep.pipeline.inspection.preview import page, rows, sheet
from alexprep.pipeline.inspection.replay import receipt, receipt_of, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ...support.commands import command
from ...support.shards import damage, write_statistics

CROP = 48


@pytest.fixture(scope="module")
def data(shards, tmp_path_factory):
    """A folder with statistics, and a shuffled loader's parts."""
    folder = shutil.copytree(shards / "jpeg", tmp_path_factory.mktemp("samples") / "shards")
    write_statistics(folder)
    return folder


@pytest.mark.process
@settings(max_examples=15, deadline=None)
@given(step=st.integers(0, 40), index=st.integers(0, 11), shuffle=st.sampled_from(["full", "block"]), world=st.sampled_from([1, 2, 3]))
def test_a_receipt_draws_the_very_sample_that_the_loader_gave(data, step, index, shuffle, world):
    """Before the mean: whole grey levels, but for the rounding of the colour shift."""
    options = {"batch_size": 12, "crop": CROP, "seed": 5, "shuffle": shuffle, "world_size": world, "mean": "none"}
    loader = Loader(data, rank=index * world // 12, **options)
    loader.load_state_dict({"step": step})
    batch = next(iter(loader))
    at = index % (12 // world)

    made = receipt(loader.records, loader.config, loader.stats, step, index)
    drawn = sample(loader.records, loader.config, loader.stats, made)

    assert made.record == batch.records[at]
    assert made.label == batch.labels[at]
    assert np.array_equal(drawn, batch.images[at].permute(1, 2, 0).clamp(0, 255).round().to(torch.uint8).numpy())


@pytest.mark.process
def test_replay_draws_a_run_s_sample_and_says_what_made_it(data, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text('seed = 5\nbatch_size = 12\ncrop = 48\ncolour = 0.5\npreset = "source"\n')
    done = command("alexprep", "replay", data, "--step", 17, "--index", 7, "--run", config, "--out", tmp_path / "a.png", "--json")
    loader = Loader(data, batch_size=12, crop=CROP, seed=5, colour=0.5)
    made = receipt(loader.records, loader.config, loader.stats, 17, 7)
    printed = json.loads(done.stdout)

    assert printed == json.loads(json.dumps(made.to_json())) | {"png": str(tmp_path / "a.png")}
    with Image.open(tmp_path / "a.png") as image:
        assert json.loads(image.text["Comment"])["key"] == made.key
        assert np.array_equal(np.asarray(image), sample(loader.records, loader.config, loader.stats, made))
    told = command("alexprep", "replay", data, "--step", 17, "--index", 7, "--run", config, cwd=tmp_path).stdout
    assert made.key in told
    assert f"top {made.top}, left {made.left}" in told
    assert (tmp_path / "step-17-index-7.png").read_bytes() == (tmp_path / "a.png").read_bytes()


@pytest.mark.process
@pytest.mark.parametrize(("step", "coloured"), [(659, True), (660, False)])
def test_replay_knows_when_the_authors_script_has_switched_colour_off(data, tmp_path, step, coloured):
    """Ten steps an epoch, 95 epochs: from epoch 66 on there is no colour."""
    config = tmp_path / "config.toml"
    config.write_text("batch_size = 13\ncrop = 48\nepochs = 95\n")
    done = command("alexprep", "replay", data, "--step", step, "--index", 0, "--run", config, "--out", tmp_path / "a.png", "--json")

    assert any(json.loads(done.stdout)["shift"]) == coloured


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--step", 3, "--index", 128, "--batch-size", 12], 1, "a batch has 12 samples, 0 to 11; there is no sample 128"),
        (["--step", 3, "--index", 1, "--batch-size", 500], 1, "130 records are fewer than one batch of 500"),
        (["--step", 3, "--index", 1, "--batch-size", 12, "--crop", 224], 1, "crop 224 does not fit into the records of"),
        (["--step", -1, "--index", 1], 2, "-1 is not in the range"),
        (["--step", 1, "--index", 1, "--split", "test"], 1, "has no split 'test'; it has train, val"),
        (["--step", 1, "--index", 1, "--run", "nowhere"], 1, "cannot read nowhere"),
    ],
)
def test_replay_of_what_there_is_not_is_one_clear_sentence(data, tmp_path, arguments, code, message):
    done = command("alexprep", "replay", data, *arguments, cwd=tmp_path)

    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_preview_shows_records_with_their_crops_and_each_view_with_its_receipt(data, tmp_path):
    loader = Loader(data, batch_size=12, crop=CROP)
    parts = (loader.records, loader.config, loader.stats)
    made = rows(loader.records, dict.fromkeys((2, 3), loader.config), loader.stats, 3)
    html = page(made, "shards <train>")

    assert len(made) == 3
    for row in made:
        assert [one.epoch for one in row.receipts] == [2, 3]
        assert np.array_equal(row.original, loader.records.pixels(row.receipts[0].record))
        assert all(np.array_equal(view, sample(*parts, one)) for view, one in zip(row.views, row.receipts, strict=True))
        last = row.receipts[-1]
        assert row.framed[last.top, last.left].tolist() == [255, 40, 40]
        assert f"{row.receipts[0].key}<br>" in html
        assert f"epoch 3: top {last.top}, left {last.left}" in html
    assert html.count("<img alt") == 9
    assert "<title>shards &lt;train&gt;</title>" in html
    assert not re.findall(r"(?:src|href)=['\"]?http", html)
    assert sheet(made).shape == (3 * (64 + 6), 3 * (64 + 6), 3)


@pytest.mark.process
def test_the_preview_is_a_page_or_a_picture(data, tmp_path):
    for name in ("sheet.html", "sheet.png"):
        done = command("alexprep", "preview", data, "--crop", CROP, "--records", 2, "--views", 3, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (4 * 70, 2 * 70)
    assert "<figure>" in (tmp_path / "sheet.html").read_text()
    wrong = command("alexprep", "preview", data, "--out", tmp_path / "sheet.gif")
    assert (wrong.returncode, "must end in .html or .png" in wrong.stderr) == (2, True)


@pytest.mark.process
def test_the_preview_s_check_tests_the_draws(data):
    done = command("alexprep", "preview", data, "--crop", CROP, "--check", "--seed", 9)

    assert done.returncode == 0, done.stderr
    assert "17 x 17 crop offsets are equally likely" in done.stdout
    assert "WRONG" not in done.stdout


def test_a_crop_that_does_not_fit_has_no_receipt(data):
    loader = Loader(data, batch_size=12, crop=CROP)

    with pytest.raises(DataError, match="crop 65 does not fit"):
        receipt_of(loader.records, Loader(data, batch_size=12, crop=CROP).config.__class__(crop=65), loader.stats, 0, 1)


def run_of(folder, data, **settings):
    """A run's folder, as far as replay and preview read it."""
    folder.mkdir()
    (folder / "config.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    start = {"event": "start", "step": 0, "ranks": 1, "classes": 2, "parameters": 1, "multiply_adds": 1, "settings": {}, "versions": {}, "device": ""}
    (folder / "metrics.jsonl").write_text(json.dumps(start | {"data": str(data), "plan": read_manifest(data).plan}) + "\n")
    return folder


@pytest.mark.process
def test_replay_of_a_run_that_skips_damage_draws_what_was_given_instead(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "shards")
    for record in (40, 41):
        damage(copy, record, 200)
    run = run_of(tmp_path / "run", copy, batch_size=13, crop=CROP, on_bad="skip", mean="none")
    with pytest.warns(DamagedRecord):
        batches = list(Loader(copy, batch_size=13, crop=CROP, on_bad="skip", mean="none", divide=1.1))
    step, index = next((step, batch.records.tolist().index(42)) for step, batch in enumerate(batches) if batch.records.tolist().count(42))
    found = []
    for index in range(13):
        done = command("alexprep", "replay", copy, "--run", run, "--step", step, "--index", index, "--out", tmp_path / "a.png", "--json")
        found.append(json.loads(done.stdout))

    assert [one["record"] for one in found] == batches[step].records.tolist()
    assert [one["label"] for one in found] == batches[step].labels.tolist()
    instead = [one["instead_of"] for one in found if one["record"] == 42]
    assert set(instead) <= {None, 40, 41}
    told = command("alexprep", "replay", copy, "--run", run, "--step", step, "--index", index, "--out", tmp_path / "a.png").stdout
    assert ("instead of" in told) == (found[index]["instead_of"] is not None)


@pytest.mark.process
def test_replay_and_preview_refuse_a_run_of_other_shards_and_steps_beyond_its_end(data, shards, tmp_path):
    run = run_of(tmp_path / "run", data, batch_size=13, crop=CROP, epochs=2)
    for program in (["replay", shards / "raw", "--step", 1, "--index", 0], ["preview", shards / "raw"]):
        done = command("alexprep", *program, "--run", run, "--out", tmp_path / "a.png")
        assert (done.returncode, "is not the data set that" in done.stderr, str(data) in done.stderr) == (1, True, True)
    late = command("alexprep", "replay", data, "--run", run, "--step", 20, "--index", 0, "--out", tmp_path / "a.png")

    assert (late.returncode, "ends before epoch 2" in late.stderr) == (1, True)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.process
def test_the_preview_shows_each_epoch_with_its_own_colour(data, tmp_path):
    """Of ten epochs, the authors' script has the colour off from the eighth on."""
    run = run_of(tmp_path / "run", data, batch_size=13, crop=CROP, epochs=10)
    done = command("alexprep", "preview", data, "--run", run, "--epoch", 5, "--views", 4, "--records", 1, "--out", tmp_path / "a.html")
    shifts = re.findall(r"epoch (\d):.*?R, G, B ([^<]*)<", (tmp_path / "a.html").read_text())

    assert done.returncode == 0, done.stderr
    assert [(epoch, shift == "+0.0, +0.0, +0.0") for epoch, shift in shifts] == [("5", False), ("6", False), ("7", True), ("8", True)]


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--check", "--crop", 65], 2, "crop 65 does not fit into records of 64 pixels"),
        (["--records", 200, "--views", 20, "--crop", CROP, "--split", "val"], 0, ""),  # twenty records: a small sheet
        (["--colour", "nan", "--crop", CROP], 2, "nan is not a number"),
        (["--colour", 1e39, "--crop", CROP], 2, "not in the range"),
        (["--epoch", 2**64, "--crop", CROP], 2, "not in the range"),
        (["--crop", CROP, "--out", "folder.png"], 1, "folder.png: is not a regular file"),
    ],
)
def test_a_preview_that_cannot_be_is_one_clear_sentence(data, tmp_path, arguments, code, message):
    (tmp_path / "folder.png").mkdir()
    done = command("alexprep", "preview", data, *arguments, cwd=tmp_path)

    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert message in done.stderr


def test_a_sheet_that_would_fill_the_memory_is_refused(data, monkeypatch):
    loader = Loader(data, batch_size=12, crop=CROP)
    monkeypatch.setattr("alexprep.pipeline.inspection.preview.MOST_PIXELS", 4 * 3 * 64 * 64)
    configs = dict.fromkeys((0, 1), loader.config)

    assert len(rows(loader.records, configs, loader.stats, 4)) == 4
    with pytest.raises(DataError, match="megapixels is too large"):
        rows(loader.records, configs, loader.stats, 5)


@pytest.mark.process
def test_the_check_of_whole_records_has_no_offsets_to_test(data):
    done = command("alexprep", "preview", data, "--crop", 64, "--check")

    assert (done.returncode, "offsets" in done.stdout, "half of the images are mirrored" in done.stdout) == (0, False, True)


@pytest.mark.process
def test_the_check_leaves_out_the_order_of_a_block_shuffle(data, tmp_path):
    done = command("alexprep", "preview", data, "--check", "--run", run_of(tmp_path / "run", data, crop=CROP, shuffle="block"))

    assert (done.returncode, "the order of --shuffle block is not tested" in done.stderr, "place" in done.stdout) == (0, True, False)
