"""Gathers what the report page shows of a run."""

from pathlib import Path

from alexprep.model.report import render
from alexprep.pipeline import Manifest, Records, Stats
from alexprep.pipeline.preview import rows, sheet
from alexprep.pipeline.storage import published

from .runs import RunFolder, load_checkpoint

REPORT = "report.html"


def write_report(folder: RunFolder, manifest: Manifest, stats: Stats) -> Path:
    """Publish report.html in the run's folder; return its path."""
    settings = folder.settings()
    weights = load_checkpoint(folder.directory)["model"].values()
    conv1 = next((weight for weight in weights if weight.ndim == 4 and weight.shape[1] == 3), None)
    samples = sheet(rows(Records(manifest, "train"), dict.fromkeys(range(4), settings.loader()), stats, 4))
    facts = {"records": ", ".join(f"{name} {split.records:,}" for name, split in manifest.splits.items()), "folder": str(folder.directory)}
    page = render(f"AlexNet, run {folder.directory.name}", folder.rows(), conv1, samples, facts)
    path = folder.directory / REPORT
    with published(path) as file:
        file.write(page.encode())
    return path
