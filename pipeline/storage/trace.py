"""Record what a loader's threads do and when, for chrome://tracing or ui.perfetto.dev."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .files import published

LIMIT = 1_000_000  # events kept, about 100 MB of JSON; later ones are only counted


class Trace:
    """Time spans by thread. Several threads may add spans concurrently."""

    def __init__(self) -> None:
        """Start an empty trace; its time 0 is the moment of this call."""
        self._start = time.perf_counter()
        self._events: list[dict[str, Any]] = []
        self._names: dict[int, str] = {}
        self.dropped = 0

    def add(self, name: str, start: float, end: float, facts: dict[str, Any]) -> None:
        """Record a span of this thread; `start` and `end` are seconds of `time.perf_counter`."""
        if len(self._events) >= LIMIT:
            self.dropped += 1
            return
        thread = threading.get_native_id()
        self._names.setdefault(thread, threading.current_thread().name)
        microseconds = (1e6 * (start - self._start), 1e6 * (end - start))
        self._events.append(
            {"name": name, "ph": "X", "ts": microseconds[0], "dur": microseconds[1], "pid": os.getpid(), "tid": thread, "args": facts}
        )

    def write(self, path: Path) -> None:
        """Publish the trace as JSON."""
        names = [
            {"name": "thread_name", "ph": "M", "pid": os.getpid(), "tid": thread, "args": {"name": name}} for thread, name in self._names.items()
        ]
        with published(path) as file:
            file.write(json.dumps({"traceEvents": names + self._events, "otherData": {"dropped": self.dropped}}).encode())


@contextmanager
def span(trace: Trace | None, name: str, **facts: Any) -> Iterator[None]:  # noqa: ANN401  (JSON)
    """Record how long the block takes; do nothing without a trace."""
    if trace is None:
        yield
        return
    start = time.perf_counter()
    try:
        yield
    finally:
        trace.add(name, start, time.perf_counter(), facts)
