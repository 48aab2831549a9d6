"""What is said of a trained network: intervals, classes, confusions, calibration, ensembles, neighbours."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from alexprep.experiment.measuring.predictions import read_predictions, write_predictions
from alexprep.model.distributed import Ranks
from alexprep.model.errors import TrainingError
from alexprep.model.evaluation.analysis import by_class, calibration, confusions, worst_mistakes
from alexprep.model.evaluation.evaluator import Predictions, averaged, interval, predict
from alexprep.model.evaluation.figures import chroma, kernels
from alexprep.model.evaluation.neighbours import features, nearest
from alexprep.model.networks.alexnet import AlexNet
from alexprep.model.networks.cifar import FourLayers
from alexprep.pipeline import DataError, Records, read_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..support.commands import TINY, called
from ..support.ranks import on_ranks
from ..support.shards import training_shards


def predictions(p, labels):
    """Predictions of given probabilities."""
    p, labels = torch.as_tensor(p, dtype=torch.float32), torch.as_tensor(labels)
    return predict([(p, labels, torch.arange(len(labels)))], Ranks())


SIX = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.45, 0.4, 0.15]]
LABELS = [0, 0, 0, 1, 2, 1]


def test_intervals_are_wilsons():
    """Golden: 50 of 100 and 0 of 10, as statistics books give them; symmetric; never outside of 0..1."""
    assert interval(0.5, 100) == pytest.approx((0.40383, 0.59617), abs=1e-5)
    assert interval(0.0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert interval(1.0, 10) == pytest.approx((1 - 0.27753, 1.0), abs=1e-5)
    assert interval(0.3, 0) == (0.0, 1.0)


def test_classes_confusions_and_mistakes_are_counted():
    found = predictions(SIX, LABELS)
    rows = {row.label: row for row in by_class(found)}

    assert (rows[0].count, rows[0].top1_error, rows[0].taken_for) == (3, pytest.approx(1 / 3), 1)
    assert (rows[1].count, rows[1].top1_error, rows[1].taken_for) == (2, 0.5, 0)
    assert (rows[2].top1_error, rows[2].taken_for) == (0.0, None)
    assert [(pair.label, pair.predicted, pair.count) for pair in confusions(found)] == [(0, 1, 1), (1, 0, 1)]
    assert confusions(found)[0].share == pytest.approx(1 / 3)
    assert worst_mistakes(found, 9) == [1, 5]  # the surest first


def test_calibration_compares_what_is_said_with_what_is_true():
    found = predictions(SIX, LABELS)
    result = calibration(found, bins=2)
    # (0, 0.5]: probabilities 0.5 and 0.45, one of two right; (0.5, 1]: 0.7 0.8 0.6 0.7, three of four right
    low, high = result.bins

    assert (low.count, low.confidence, low.accuracy) == (2, pytest.approx(0.475), 0.5)
    assert (high.count, high.confidence, high.accuracy) == (4, pytest.approx(0.7), 0.75)
    assert result.error == pytest.approx((0.025 * 2 + 0.05 * 4) / 6)


@given(st.integers(2, 7), st.integers(1, 40), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_the_parts_add_up_to_the_whole(classes, count, seed):
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(count, classes, generator=generator).softmax(1)
    labels = torch.randint(0, classes, (count,), generator=generator)
    found = predictions(p, labels)
    result, rows = found.evaluation(), by_class(found)

    assert sum(row.count for row in rows) == count
    assert sum(row.top1_error * row.count for row in rows) == pytest.approx(result.top1_error * count)
    assert sum(pair.count for pair in confusions(found)) == round(result.top1_error * count)
    assert sum(one.count for one in calibration(found).bins) == count
    low, high = result.intervals()["top1_interval"]
    assert low <= result.top1_error <= high


def test_an_ensemble_is_the_mean_of_the_probabilities():
    labels, records = torch.tensor([0]), torch.tensor([7])
    one, other = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.0, 1.0]])
    ((p, _, _),) = averaged([[(one, labels, records)], [(other, labels, records)]])

    assert torch.allclose(p, torch.tensor([[0.45, 0.55]]))
    with pytest.raises(TrainingError, match="same records"):
        list(averaged([[(one, labels, records)], [(other, labels, records + 1)]]))


def _gathered(rank, _count, p, labels):
    """Every image on one of three ranks, the last of which has none, in another order."""
    mine = torch.arange(len(labels))[rank::2].flip(0) if rank < 2 else torch.arange(0)
    batches = [(p[mine], labels[mine], mine)] if len(mine) else []
    found = predict(batches, Ranks(rank, 3))
    return [found.records, found.labels, found.best, found.p, found.true_p]


def test_predictions_of_several_ranks_are_those_of_one_on_every_rank():
    p, labels = torch.rand(9, 6, generator=torch.Generator().manual_seed(1)).softmax(1), torch.arange(9) % 6
    whole = predictions(p, labels)
    for values in on_ranks(3, _gathered, p, labels):
        for ours, theirs in zip((whole.records, whole.labels, whole.best, whole.p, whole.true_p), values, strict=True):
            assert torch.equal(ours, theirs)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of `paper`, its data, and a second seed."""
    root = tmp_path_factory.mktemp("evaluation")
    data = training_shards(root, 40)
    for seed in ("0", "1"):
        done = called(
            "alextrain", "run", data, "--out", root / seed, "--epochs", "1", "--preset", "paper", "--seed", seed, "--set", "schedule=fixed", *TINY
        )
        assert done.returncode == 0, done.stderr
    return root


def evaluated(run, *arguments):
    done = called("alextrain", "eval", "--data", run / "shards", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_checkpoint_is_evaluated_with_its_own_preset(run):
    """Networks of other presets have the same shapes: only the numbers would tell."""
    value = evaluated(run, "--checkpoint", run / "0")
    rows = [json.loads(line) for line in (run / "0" / "metrics.jsonl").read_text().splitlines()]
    logged = next(row for row in rows if row["event"] == "result" and row["views"] == 10)

    assert value["loss"] == pytest.approx(logged["loss"], rel=1e-5)
    assert value["top1_error"] == logged["top1_error"]


def test_an_ensemble_of_two_checkpoints_averages_their_probabilities(run):
    alone = [evaluated(run, "--checkpoint", run / seed, "--predictions", run / f"{seed}.parquet") for seed in ("0", "1")]
    together = evaluated(run, "--checkpoint", run / "0", "--checkpoint", run / "1", "--predictions", run / "both.parquet")
    twice = evaluated(run, "--checkpoint", run / "0", "--checkpoint", run / "0")
    tables = [pq.read_table(run / f"{name}.parquet") for name in ("0", "1", "both")]
    true = [torch.tensor(table["true_p"].to_pylist()) for table in tables]

    assert torch.allclose((true[0] + true[1]) / 2, true[2], atol=1e-6)
    assert twice["loss"] == pytest.approx(alone[0]["loss"], rel=1e-6)
    assert together["count"] == 17
    assert {"top1_interval", "classes", "confusions", "calibration"} <= set(together)
    assert [row["name"] for row in together["classes"]] == ["ant", "bee"]


def test_eval_says_it_for_people_too(run):
    done = called("alextrain", "eval", "--data", run / "shards", "--checkpoint", run / "0", "--precision", "bfloat16", "--crops", "1")

    assert done.returncode == 0, done.stderr
    assert "17 images of val, the centre view" in done.stdout
    assert "(95 %: " in done.stdout
    assert "classes, the worst first" in done.stdout


def test_predictions_are_read_back_and_damage_is_named(run, tmp_path):
    manifest = read_manifest(run / "shards")
    found, facts = read_predictions(run / "0" / "predictions.parquet")
    assert (facts["split"], facts["views"], facts["plan"]) == ("val", 10, manifest.plan)
    assert found.records.tolist() == list(range(17))

    write_predictions(tmp_path / "again.parquet", found, Records(manifest, "val"), {"split": "val"})
    again, _ = read_predictions(tmp_path / "again.parquet")
    assert torch.equal(again.p, found.p)
    write_predictions(tmp_path / "beyond.parquet", replace(found, labels=found.labels + 9), Records(manifest, "val"), {"split": "val"})
    (tmp_path / "no.parquet").write_bytes(b"PAR1 no")
    for name, message in (("beyond", "beyond its classes"), ("no", "does not hold predictions")):
        with pytest.raises(DataError, match=message):
            read_predictions(tmp_path / f"{name}.parquet")


def test_features_are_what_fc8_is_given(run):
    torch.manual_seed(0)
    model = AlexNet("source", classes=4, width=0.1, crop=64).eval()
    images = torch.randn(3, 3, 64, 64) * 50
    ((values, labels, records),) = features(model, [(images, torch.arange(3), torch.arange(3) + 5)])
    with torch.no_grad():
        assert torch.allclose(model.fc8(values), model(images), atol=1e-6)
    assert labels.tolist() == [0, 1, 2]
    assert records.tolist() == [5, 6, 7]
    with pytest.raises(TrainingError, match="no fc8"):
        next(features(FourLayers(), [(images, labels, records)]))


def test_features_are_written_a_row_a_record(run):
    done = called("alextrain", "features", "--data", run / "shards", "--checkpoint", run / "0", "--out", run / "features.parquet")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(run / "features.parquet")

    assert table["record"].to_pylist() == list(range(17))
    assert [key.split("/")[1] for key in table["key"].to_pylist()] == [("ant", "bee")[label] for label in table["label"].to_pylist()]
    assert len(table["features"][0]) == table.schema.field("features").type.list_size > 0


@given(st.integers(1, 5), st.integers(1, 60), st.integers(1, 8), st.integers(1, 13), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_the_nearest_are_found_whatever_the_blocks(queries, count, wanted, block, seed):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(0, 3, (count, 2), generator=generator).float()  # many equal distances
    asked = torch.randint(0, 3, (queries, 2), generator=generator).float()
    order = torch.randperm(count, generator=generator)
    blocks = [(base[part], torch.zeros(len(part)), part) for part in order.split(block)]
    found = nearest(asked, blocks, wanted)
    for i in range(queries):
        all_of_them = sorted((float((asked[i] - base[j]).double().norm()), j) for j in range(count))[:wanted]
        assert found.records[i].tolist() == [j for _, j in all_of_them]
        assert found.distances[i].tolist() == pytest.approx([d for d, _ in all_of_them])


def test_chroma_is_none_of_grey_kernels_and_all_of_opposed_colours():
    grey = torch.rand(4, 1, 11, 11).expand(4, 3, 11, 11)
    red_and_cyan = torch.stack([torch.ones(4, 11, 11), -torch.ones(4, 11, 11) / 2, -torch.ones(4, 11, 11) / 2], 1)

    assert chroma(torch.cat([grey, red_and_cyan])) == pytest.approx([0.0, 1.0], abs=1e-6)
    assert len(chroma(grey, towers=1)) == 1


def test_the_second_towers_kernels_stand_below_the_firsts():
    weight = torch.zeros(4, 3, 2, 2)
    weight[2:, 0, 0, 0] = 1
    picture = kernels(weight, scale=1)
    assert picture.shape == (2 * 6 + 6, 2 * 6, 3)
    assert picture[:6].min() == 0
    assert picture[2, 2].tolist() == [0, 0, 0]
    assert picture[2 + 6 + 6, 2].tolist() == [255, 0, 0]
    assert kernels(weight, towers=1, scale=1).shape == (6, 4 * 6, 3)


def test_figures_3_and_4_are_drawn_with_neighbours_that_are_in_the_training_set(run):
    done = called("alextrain", "figures", run / "0", "--queries", "2", "--nearest", "3", "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)

    assert len(value["chroma"]) == 2
    vectors = {}
    for split in ("val", "train"):
        out = run / f"{split}-features.parquet"
        assert called("alextrain", "features", "--data", run / "shards", "--checkpoint", run / "0", "--split", split, "--out", out).returncode == 0
        vectors[split] = torch.tensor(pq.read_table(out)["features"].to_pylist(), dtype=torch.float64)
    assert [len(row["nearest"]) for row in value["neighbours"]] == [3, 3]
    for row in value["neighbours"]:
        distances = (vectors["train"] - vectors["val"][row["record"]]).norm(dim=1)
        assert [number for number, _ in row["nearest"]] == distances.argsort(stable=True)[:3].tolist()
        assert [distance for _, distance in row["nearest"]] == pytest.approx(distances.sort().values[:3].tolist(), rel=1e-5)
    assert (run / "0" / "figure-3.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "0" / "figure-4.png").read_bytes().startswith(b"\x89PNG")
    assert "nearest training images" in (run / "0" / "report.html").read_text()


def test_figures_are_of_the_run_s_own_checkpoints_and_data(run, tmp_path):
    before = (run / "0" / "neighbours.json").read_bytes()
    other = called("alextrain", "figures", run / "0", "--checkpoint", "../1/last.pt")
    assert other.returncode == 1
    assert "names one of the files" in other.stderr
    data = training_shards(tmp_path, 12)
    assert "is not the data set" in called("alextrain", "figures", run / "0", "--data", data).stderr
    assert (run / "0" / "neighbours.json").read_bytes() == before


def test_a_place_that_cannot_take_the_result_is_refused_before_the_work(run, tmp_path):
    (tmp_path / "last.pt").write_text("mine")
    for place, message in ((tmp_path / "last.pt", "must end in .parquet"), (tmp_path / "no" / "p.parquet", "there is no folder")):
        done = called("alextrain", "eval", "--data", run / "shards", "--checkpoint", run / "0", "--predictions", place)
        assert done.returncode == 2
        assert message in done.stderr
    assert (tmp_path / "last.pt").read_text() == "mine"


def test_predictions_refuse_numbers_that_are_none():
    p = torch.tensor([[float("nan"), 0.5]])
    with pytest.raises(TrainingError, match="not finite"):
        predictions(p, [0]).evaluation()
    assert isinstance(predictions([[0.5, 0.5]], [1]), Predictions)


def test_a_command_of_one_process_says_so_under_torchrun(run):
    for arguments in (
        ("features", "--data", run / "shards", "--checkpoint", run / "0"),
        ("figures", run / "0"),
        ("predict", "--checkpoint", run / "0", "x.jpg"),
    ):
        done = called(
            "alextrain", *arguments, env={"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        )
        assert done.returncode == 1
        assert "start it without torchrun" in done.stderr
