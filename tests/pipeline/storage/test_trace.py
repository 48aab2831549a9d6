"""What each thread did, and when."""

import json

from alexprep.pipeline import Loader
from alexprep.pipeline.storage.trace import Trace

from ...support.loaders import CROP, same


def test_a_trace_shows_what_each_thread_did(shards, tmp_path):
    trace = Trace()
    loader = Loader(shards / "jpeg", crop=CROP, batch_size=20, threads=2, trace=trace)
    untraced = Loader(shards / "jpeg", crop=CROP, batch_size=20, threads=2)
    for batch, expected in zip(loader, untraced, strict=True):
        assert same(batch, expected)
    trace.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]

    assert sum(event["args"]["records"] for event in spans if event["name"] == "views") >= 6 * 20
    assert [event["args"]["step"] for event in spans if event["name"] == "wait for the batch"] == list(range(6))
    assert sum(event["name"] == "consumer" for event in spans) == 6
    assert len({event["tid"] for event in spans}) in (2, 3)  # the consumer and two threads, of which one may have been too late for work
    assert {event["args"]["name"].partition("_")[0] for event in events if event["ph"] == "M"} == {"alexprep", "MainThread"}
