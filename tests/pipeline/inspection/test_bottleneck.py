"""Which stage binds, and what would help."""

import json

import pytest
from alexprep.pipeline.inspection.bottleneck import Setup, verdict

from ...support.commands import command
from ...support.loaders import CROP

JPEG, RAW = {"decoding": 3000, "augmenting": 6000, "storage": 9000}, {"augmenting": 6000, "storage": 900}


@pytest.mark.parametrize(
    ("stages", "loader", "threads", "sentence"),
    [
        (JPEG, 1900, 2, "The processor binds: 1,900 images/s are 95% of the 2,000 that the processor allows; most of it is decoding: raw records"),
        (JPEG, 1900, 2, "(alexprep shard --encoding raw) would allow 6,000 at the very most, for 5.1 times the space."),
        (JPEG, 1900, 1, "allows; --threads 2 would use all CPUs."),
        (RAW, 800, 2, "Storage binds: 800 images/s are 89% of the 900 that storage allows; --shuffle block"),
        (RAW, 4500, 2, "The processor binds: 4,500 images/s are 75% of the 6,000 that the processor allows; --dtype"),
        (RAW, 4500, 2, " That is with the shards in memory: read from the disk, storage would bind at 900."),
        (JPEG | {"host to device": 1500}, 1400, 2, "Host to device binds: 1,400 images/s are 93% of the 1,500"),
        (JPEG | {"the consumer": 500}, 1900, 2, "The consumer binds: it takes 500 images/s, and the loader makes 3.8 times as many"),
    ],
)
def test_the_verdict_names_what_binds_and_what_would_help(stages, loader, threads, sentence):
    assert sentence in verdict(stages, loader, Setup(threads, 2, raw_size=5.13))


def test_the_verdict_advises_nothing_that_is_done_already_and_says_when_figures_explain_nothing():
    half = Setup(2, 2, "bfloat16")
    assert verdict(RAW, 4500, half).split("; ")[1].startswith("only more CPUs help")
    assert "JPEG" not in verdict(JPEG | {"storage": 1000}, 900, half)
    assert verdict(JPEG, 2900, half).startswith("The machine was busier while the stages were measured than later: 2,900 images/s are 145%")
    assert verdict(JPEG, 600, half).startswith("None of the stages binds: 600 images/s are 30%")


@pytest.mark.process
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_bench_measures_every_stage_and_ends_in_a_sentence(shards, encoding, tmp_path):
    options = ["--crop", CROP, "--batch-size", 20, "--seconds", 0.2, "--device", "cpu"]
    told = command("alexprep", "bench", shards / encoding, *options, "--trace", tmp_path / "t.json")
    printed = json.loads(command("alexprep", "bench", shards / encoding, *options, "--consumer", 10, "--json").stdout)
    names = ["storage", *(["decoding"] if encoding == "jpeg" else []), "augmenting"]

    assert told.returncode == 0, told.stderr
    assert [line.split()[0] for line in told.stdout.splitlines()[: len(names) + 1]] == [*names, "loader"]
    assert " images/s are " in told.stdout.splitlines()[-1]
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert [stage["name"] for stage in printed["stages"]] == [*names, "the consumer", "loader"]
    assert all(stage["rate"] > 0 for stage in printed["stages"])
    assert printed["verdict"].startswith("The consumer binds: it takes 10 images/s")
