"""What is kept of a step whose loss is not finite."""

import json
import shlex
from pathlib import Path

from alexprep.model.training.trainer import NotFinite
from alexprep.pipeline import Loader, Stats
from alexprep.pipeline.inspection.replay import receipt
from alexprep.pipeline.storage.files import published


def write_receipts(error: NotFinite, folder: Path, data: Path, loader: Loader, stats: Stats) -> str:
    """Write the receipts of the step's whole batch to diverged.jsonl, beside diverged.pt; return the message with what to do next."""
    config, path = loader.config, folder / "diverged.jsonl"
    with published(path) as file:
        for index in range(config.batch_size):
            file.write(json.dumps(receipt(loader.records, config, stats, error.step, index).to_json()).encode() + b"\n")
    drawn = shlex.join(map(str, ["alexprep", "replay", data, "--run", folder, "--step", error.step, "--index", 0]))
    return f"{error}. The state before that step is {path.with_suffix('.pt')}, its batch {path}; {drawn} draws a sample of it"
