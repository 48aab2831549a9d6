"""A trace of what torch does."""

import json

import pytest

from ...support.commands import command
from ...support.runs import run

pytestmark = pytest.mark.process


def test_a_profile_is_a_trace_of_three_steps(data, tmp_path):
    done = run(data, tmp_path / "run", "--profile", by=command)
    events = json.loads((tmp_path / "run" / "profile.json").read_text())["traceEvents"]

    assert "profile of three steps" in done.stderr
    assert sum(event.get("name", "").startswith("ProfilerStep") for event in events) == 3
    assert any("convolution" in event.get("name", "") for event in events)
