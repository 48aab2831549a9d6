"""The examples train, and go on after a stop as if there had been none; with the trainers that are not here: `make test-examples`."""

import math
import re
from importlib.util import find_spec
from itertools import chain

import pytest
from alexprep.pipeline import Loader

from .support.commands import command
from .support.images import make_images
from .support.paths import ROOT
from .support.shards import make_shards

pytestmark = pytest.mark.process

EXAMPLES = {"plain_pytorch.py": "torch", "timm_train.py": "timm", "lightning_module.py": "lightning"}
BATCH, CROP, SEED, STEPS, STOP = 8, 48, 3, 8, 3  # the stop lies within the first epoch of five steps, the end within the second
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def few_shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("examples")
    make_shards(make_images(root / "images", {"train/ant": 22, "train/bee": 20}), root / "shards", size=64)
    return root / "shards"


@pytest.fixture(params=EXAMPLES)
def example(request):
    package = EXAMPLES[request.param]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed here: make test-examples")
    return request.param


def train(example, shards, *options, steps=STEPS, launcher=()):
    """What an example prints: (step, loss, first record) of every step."""
    fixed = ("--steps", steps, "--batch-size", BATCH, "--crop", CROP, "--seed", SEED, "--device", "cpu")
    run = command("python", *launcher, ROOT / "examples" / example, shards, *fixed, *options, env={"OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    found = re.findall(r"^step (\d+): loss (\S+), first record (\d+)$", run.stdout, re.MULTILINE)
    assert len(found) == len(run.stdout.splitlines()), run.stdout
    return [(int(step), float(loss), int(record)) for step, loss, record in found]


def first_records(shards):
    loader = Loader(shards, batch_size=BATCH, crop=CROP, seed=SEED)
    return [int(batch.records[0]) for batch in chain(loader, loader)][:STEPS]


def test_an_example_goes_on_after_a_stop_as_if_there_had_been_none(example, few_shards, tmp_path):
    checkpoint = ("--checkpoint", tmp_path / "saved.ckpt")
    whole = train(example, few_shards)
    stopped = train(example, few_shards, *checkpoint, steps=STOP)
    resumed = train(example, few_shards, *checkpoint, "--resume")

    assert [step for step, _, _ in whole] == list(range(1, STEPS + 1))
    assert [record for _, _, record in whole] == first_records(few_shards)
    assert all(math.isfinite(loss) for _, loss, _ in whole)
    assert len({loss for _, loss, _ in whole}) == STEPS
    assert stopped == whole[:STOP]
    assert resumed == whole[STOP:]


def test_an_example_takes_the_same_batches_on_two_ranks(example, few_shards):
    ranks = train(example, few_shards, "--devices", 2) if example == "lightning_module.py" else train(example, few_shards, launcher=TORCHRUN)

    assert [record for _, _, record in ranks] == first_records(few_shards)
    if example != "timm_train.py":  # its BatchNorm and Mixup see each rank's part alone
        assert [loss for _, loss, _ in ranks] == pytest.approx([loss for _, loss, _ in train(example, few_shards)], rel=1e-3)
