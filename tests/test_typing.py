"""What an editor shows: a small program of a user, read by type checkers."""

import subprocess
import sys
from pathlib import Path

import pytest
from alexprep.pipeline import Loader, compute_stats, read_manifest

GOOD = """
from alexprep.experiment import Run, RunConfig, StepLog, evaluate
from alexprep.pipeline import Batch, Loader, LoaderConfig, read_manifest

loader = Loader("shards", batch_size=64, views="center", device="cpu", server_patience=5.0)
for images, labels, records in loader:
    print(images.shape, labels.tolist(), records.tolist())
batch: Batch = next(iter(loader))
state: dict[str, int] = loader.state_dict()
classes: tuple[str, ...] = read_manifest("shards").classes
config = RunConfig.from_preset("paper", lr=0.02)
rate: float = config.trainer.lr
crop: int = LoaderConfig(crop=96).crop
for event in Run(config, data="shards"):
    if isinstance(event, StepLog):
        loss: float = event.loss
error: float = evaluate("runs/1", views=10).evaluation.top1_error
"""
WRONG = """
from alexprep.pipeline import Loader

Loader("shards", batchsize=64)
Loader("shards", views="middle")
Loader("shards", crop="224")
"""


def checked(checker, tmp_path, text):
    """The lines with errors that a type checker finds in a program."""
    (tmp_path / "program.py").write_text(text)
    run = subprocess.run([sys.executable, "-m", *checker, "program.py"], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode in (0, 1), run.stderr
    return [line for line in run.stdout.splitlines() if "error" in line and "program.py" in line]


@pytest.mark.process
@pytest.mark.parametrize(
    "checker", [("mypy", "--strict"), ("basedpyright", "--level", "error", "--pythonpath", sys.executable)], ids=lambda words: words[0]
)
def test_a_program_of_a_user_type_checks_and_its_mistakes_are_found(checker, tmp_path):
    assert checked(checker, tmp_path, GOOD) == []
    wrong = checked(checker, tmp_path, WRONG)
    assert {line.partition(":")[2].partition(":")[0] for line in (part[part.index("program.py") :] for part in wrong)} >= {"4", "5", "6"}


def test_what_is_printed_of_a_loader_a_batch_and_a_data_set_can_be_read(shards):
    compute_stats(read_manifest(shards / "raw"))
    loader = Loader(shards / "raw", split="val", batch_size=10, crop=48, mean="none")

    assert repr(loader).startswith(
        f"Loader('{shards / 'raw'}', split='val', batch_size=10, crop=48, mean='none'): 20 records, step 0, 2 steps an epoch"
    )
    assert repr(next(iter(loader))) == "Batch(images=float32[10, 3, 48, 48], labels=int64[10], records=int64[10])"
    assert repr(loader.records.manifest) == f"Manifest('{shards / 'raw'}', 2 classes, train: 130 records, val: 20 records)"


def test_an_unknown_option_names_the_nearest_one(shards):
    with pytest.raises(TypeError, match=r"Loader has no option 'batchsize'; did you mean batch_size\?"):
        Loader(shards / "raw", batchsize=3)


def test_packages_say_their_names_and_their_version():
    import alexprep.experiment
    import alexprep.pipeline

    for package in (alexprep.pipeline, alexprep.experiment):
        assert set(package.__all__) <= set(dir(package))
        assert all(getattr(package, name) is not None for name in dir(package))
        assert package.__version__ == alexprep.pipeline.__version__


def test_every_public_name_has_its_types_on_board():
    import alexprep.pipeline

    installed = Path(alexprep.pipeline.__file__).parent
    assert (installed / "py.typed").exists()
