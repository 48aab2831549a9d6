"""A run as a library: without a command, in this process, and without a word."""

from itertools import groupby

import pytest
import torch
from alexprep.experiment import Finished, Measured, Notice, Run, RunConfig, Started, StepLog, Stopped, Tick, Validation, evaluate
from alexprep.experiment.checkpoint import load_checkpoint
from alexprep.model.errors import TrainingError
from alexprep.pipeline import DataError

from ..support.shards import training_shards

TINY = RunConfig.from_preset("source", width=0.05, batch_size=12, crop=64, log_steps=2, eval_batch_size=8, epochs=2)  # six steps


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three steps an epoch."""
    return training_shards(tmp_path_factory.mktemp("library"), 20)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run from its first step to its last, and its events."""
    run = Run(TINY, data, tmp_path_factory.mktemp("whole") / "run")
    return run, list(run)


def weights(out):
    return load_checkpoint(out)["model"]


def test_a_run_yields_what_happens_in_order(whole):
    run, events = whole
    kinds = [kind for kind, _ in groupby(type(event) for event in events if not isinstance(event, Notice))]

    assert kinds == [Started, Tick, StepLog, Tick, Validation, StepLog, Tick, StepLog, Validation, Measured, Finished]
    assert [event.step for event in events if isinstance(event, Tick | StepLog)] == [1, 2, 3, 4, 5, 6]  # every second one is logged
    assert [(event.step, event.epoch) for event in events if isinstance(event, Validation)] == [(3, 1), (6, 2)]
    assert [event.views for event in events if isinstance(event, Measured)] == [10, 1]
    assert events[-1] == Finished(6, run.folder.directory / "report.html")
    assert (run.step, run.total, run.stopped, run.validated_on) == (6, 6, False, "val")
    assert events[-1].report.is_file()


@pytest.mark.process
def test_a_run_that_is_left_half_way_and_resumed_has_the_weights_of_one_without_a_break(data, whole, tmp_path):
    for event in Run(TINY.changed(checkpoint_steps=1), data, tmp_path / "run"):
        if isinstance(event, StepLog) and event.step == 4:
            break
    resumed = Run.resume(tmp_path / "run")
    events = list(resumed)

    assert events[-1].step == 6
    assert events[-1] == Finished(6, tmp_path / "run" / "report.html")
    assert 3 <= next(event.step for event in events if isinstance(event, Started)) <= 4  # the fourth step's may be being written
    ours, theirs = weights(tmp_path / "run"), weights(whole[0].folder.directory)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_that_is_stopped_in_its_loop_says_so_and_leaves_a_checkpoint(data, whole, tmp_path):
    run, events = Run(TINY, data, tmp_path / "run"), []
    for event in run:
        events.append(event)
        if isinstance(event, StepLog) and event.step == 2:
            run.stop()
    stopped = events[-1]
    left = load_checkpoint(tmp_path / "run")["step"]
    list(Run.resume(tmp_path / "run"))
    ours, theirs = weights(tmp_path / "run"), weights(whole[0].folder.directory)

    assert (type(stopped), stopped.step, stopped.reason) == (Stopped, left, "stop()")
    assert run.stopped
    assert left in (2, 3)
    assert not [event for event in events if isinstance(event, Measured | Finished)]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_prints_nothing(data, tmp_path, capfd):
    list(Run(TINY.changed(steps=1), data, tmp_path / "run"))

    assert capfd.readouterr() == ("", "")


def test_a_run_that_diverges_raises_and_leaves_the_state_before(data, tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+") as raised:
        list(Run(TINY.changed(lr=1e30), data, tmp_path / "run"))
    step = torch.load(tmp_path / "run" / "diverged.pt", weights_only=True)["step"]

    assert f"at step {step + 1}" in str(raised.value)


def test_evaluate_says_what_the_run_measured(data, whole):
    run, events = whole
    for measured in (event for event in events if isinstance(event, Measured)):
        found = evaluate(run.folder.directory, data, views=measured.views).evaluation

        assert (found.count, found.top1_error, found.top5_error) == (measured.count, measured.top1_error, measured.top5_error)
        assert found.loss == pytest.approx(measured.loss, rel=1e-6)


def test_a_resumed_run_refuses_another_width(whole):
    with pytest.raises(ValueError, match="a resumed run keeps its settings: width cannot change"):
        Run.resume(whole[0].folder.directory, width=0.1)


@pytest.mark.process
def test_a_run_that_is_left_watches_nothing_and_has_written_what_it_began(data, tmp_path, monkeypatch):
    """The watchdog ends the process after half an hour without a step: of a run that nobody iterates over any more, it must not."""
    import faulthandler

    seen = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: seen.append("watched"))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: seen.append("rests"))
    run = Run(TINY.changed(checkpoint_steps=1), data, tmp_path / "run")
    for event in run:
        if event.step == 2:
            break
    run.evaluate()

    assert "watched" in seen
    assert seen[-1] == "rests"
    assert load_checkpoint(tmp_path / "run")["step"] in (1, 2)


def test_code_that_only_a_run_s_folder_names_is_not_run(data, tmp_path, monkeypatch):
    """A folder may come from a stranger."""
    (tmp_path / "evil.py").write_text("raise SystemExit('it was run')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(TINY.changed(model="evil:make").to_toml())

    with pytest.raises(DataError, match="give model='evil:make' too, if you trust its code"):
        Run.resume(tmp_path / "run", data)


def test_a_run_that_cannot_start_leaves_no_folder(data, tmp_path):
    with pytest.raises(DataError, match="fewer than one batch"):
        Run(TINY.changed(batch_size=5000), data, tmp_path / "run")

    assert not (tmp_path / "run").exists()
