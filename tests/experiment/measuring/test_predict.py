"""Classes of images in files."""

import json

import pyarrow.parquet as pq
import pytest

from ...support.commands import called
from ...support.images import picture


@pytest.mark.process
def test_images_are_predicted_as_the_evaluation_predicts_their_records(run, tmp_path):
    images = sorted((run / "images" / "val").rglob("*.JPEG"))
    done = called("alextrain", "predict", "--checkpoint", run / "run", *images, "--json")
    assert done.returncode == 0, done.stderr
    answers = {answer["image"]: {one["label"]: one["p"] for one in answer["classes"]} for answer in json.loads(done.stdout)}
    evaluated = called("alextrain", "eval", "--checkpoint", run / "run", "--data", run / "shards", "--predictions", tmp_path / "p.parquet")
    assert evaluated.returncode == 0, evaluated.stderr
    for row in pq.read_table(tmp_path / "p.parquet").to_pylist():
        assert answers[str(run / "images" / row["key"])][row["label"]] == pytest.approx(row["true_p"], abs=0.02)  # records are JPEGs once more


def test_prediction_draws_bars_and_names_what_is_no_image(run, tmp_path):
    from PIL import Image

    Image.fromarray(picture(3)).save(tmp_path / "photo.png")
    (tmp_path / "text.jpg").write_text("a text")
    good = called("alextrain", "predict", "--checkpoint", run / "run", tmp_path / "photo.png")
    assert "█" in good.stdout
    assert "ant" in good.stdout
    for name, message in (("text.jpg", "not an image of a known format"), ("gone.jpg", "is not a file"), (".", "give images, not folders")):
        bad = called("alextrain", "predict", "--checkpoint", run / "run", tmp_path / "photo.png", tmp_path / name)
        assert bad.returncode == 1
        assert message in bad.stderr
