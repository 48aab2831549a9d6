"""`alextrain run --profile`: profile torch in a few steps."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from alexprep.pipeline.storage.files import published


@contextmanager
def profiling(path: Path | None, tell: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each step.

    path   file for the timeline of torch in steps 5 to 7; None: no profile
    tell   called with a line that says what was written
    """
    if path is None:
        yield lambda: None
        return

    def write(profiler: Any) -> None:  # noqa: ANN401  (torch's)
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "profile.json"
            profiler.export_chrome_trace(str(whole))
            with published(path) as file, whole.open("rb") as written:
                shutil.copyfileobj(written, file)
        tell(f"profile of three steps: {path} (for chrome://tracing or ui.perfetto.dev)")

    when = torch.profiler.schedule(wait=3, warmup=1, active=3, repeat=1)
    with torch.profiler.profile(schedule=when, on_trace_ready=write) as profiler:
        yield profiler.step
    if not path.exists():
        tell("no profile was written: the run was shorter than seven steps")
