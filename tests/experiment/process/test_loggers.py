"""Loggers beside metrics.jsonl."""

from importlib.util import find_spec

import pytest

from ...support.commands import command
from ...support.runs import losses, run

pytestmark = pytest.mark.process


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_metrics_reach_the_logger(data, tmp_path, name):
    """Those that are installed: make test-examples has all of them."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed here: make test-examples")
    environment = {"TRACKIO_DIR": str(tmp_path / "trackio"), "WANDB_SILENT": "true"}
    run(data, tmp_path / "run", "--set", f"loggers={name}", "--steps", 3, by=command, env=environment)
    places = {"tensorboard": "run/tensorboard/events*", "wandb": "run/wandb/offline-run-*/run-*.wandb", "trackio": "trackio/*.db"}
    found = [path for path in tmp_path.glob(places[name]) if path.stat().st_size > 100]

    assert found
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
        assert [event.value for event in events.Scalars("step/loss")] == pytest.approx(list(losses(tmp_path / "run").values()))
