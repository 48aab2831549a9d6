"""Gathers what the report page shows of runs. Whatever is gone (the data, a checkpoint, predictions) is left out, with a note."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alexprep.model.alexnet import PRESETS
from alexprep.model.analysis import calibration, confusions, worst_mistakes
from alexprep.model.evaluator import Predictions
from alexprep.model.figures import chroma, kernels
from alexprep.model.report import Picture, RunView, render
from alexprep.pipeline import DataError, Manifest, Records, Stats, load_stats, read_manifest
from alexprep.pipeline.errors import printable
from alexprep.pipeline.order import shuffled
from alexprep.pipeline.preview import rows as sample_rows
from alexprep.pipeline.storage import published, read_array, read_json

from .evaluating import PREDICTIONS, read_predictions
from .runs import RunFolder, checkpoint_stats, first_kernels, load_checkpoint
from .schedules import marks
from .settings import Settings

REPORT, NEIGHBOURS = "report.html", "neighbours.json"
GUESSES = 8  # images of figure 4, left
PAIRS, OF_A_PAIR, MISTAKES, SAMPLES = 6, 4, 14, 4
MOST_FRAMES = 40  # of the kernels


def write_report(folders: Sequence[RunFolder], out: Path, data: Path | None = None) -> Path:
    """Publish the page of these runs; `data`: where their shards are now, if they were moved."""
    page = render([view(folder, data) for folder in folders])
    with published(out) as file:
        file.write(page.encode())
    return out


def view(folder: RunFolder, data: Path | None = None, *, pictures: bool = True) -> RunView:
    """Return what the page shows of a run; without `pictures`, the curves and kernels alone."""
    rows = folder.rows()
    settings = folder.settings()
    plain = RunView(folder.directory.name, rows, marks=marks(rows, settings), kernels=_kernels(folder, settings))
    if not pictures:
        return plain
    start = folder.start()
    notes: list[str] = []
    shown: dict[str, Any] = {"facts": {"folder": str(folder.directory)}}
    where = data or start.get("data")
    try:
        if where is None or not isinstance(where, str | Path) or "://" in str(where):
            raise DataError("the pictures need the shards on a local disk: give --data")
        manifest = read_manifest(where)
        if start.get("plan", manifest.plan) != manifest.plan:
            raise DataError(f"{where} is not the data set that the run was trained on")
        shown["facts"] |= {"records": ", ".join(f"{name} {split.records:,}" for name, split in manifest.splits.items())}
        shown |= _pictures(folder, manifest, settings, notes)
    except DataError as error:
        if data is not None:
            raise
        if where != "--data synthetic":
            notes.append(f"No images are shown: {error}")
    return replace(plain, **shown, notes=tuple(notes))


def _kernels(folder: RunFolder, settings: Settings) -> dict[int, tuple[np.ndarray, list[float]]]:
    """Return figure 3 and the chroma fractions at each step of which the kernels are kept, and of the last checkpoint."""
    towers = PRESETS[settings.preset].towers if settings.alexnet else 1
    weights: dict[int, torch.Tensor] = {}
    for step, path in list(folder.kernels().items())[-MOST_FRAMES:]:
        try:
            values = torch.from_numpy(np.asarray(read_array(path), np.float32))
        except (ValueError, OSError, TypeError):
            continue  # a frame less
        if values.ndim == 4 and values.shape[1] == 3 and 0 < values.numel() <= 1 << 24:
            weights[step] = values
    if not weights:  # of a release that kept none
        try:
            state = load_checkpoint(folder.directory)
        except DataError:
            return {}
        last = first_kernels(state["model"])
        weights = {} if last is None else {int(state["step"]): last}
    return {step: (kernels(weight, towers, scale=1), chroma(weight, towers)) for step, weight in weights.items() if len(weight) >= towers}


def _stats(folder: RunFolder, manifest: Manifest) -> Stats:
    try:
        return checkpoint_stats(load_checkpoint(folder.directory))
    except DataError:  # before the first checkpoint
        return load_stats(manifest)


def _pictures(folder: RunFolder, manifest: Manifest, settings: Settings, notes: list[str]) -> dict[str, Any]:
    train = Records(manifest, "train")
    made: dict[str, Any] = {"samples": _samples(train, settings, _stats(folder, manifest))}
    path = folder.directory / PREDICTIONS
    if not path.is_file():
        notes.append("What the network says of single images is shown when the run has finished.")
        return made
    found, facts = read_predictions(path)
    if facts.get("plan") != manifest.plan:
        raise DataError(f"{path} is of another data set than {manifest.directory}")
    seen = Seen(Records(manifest, facts["split"]), found, manifest.classes)
    made |= {"guesses": seen.guesses(settings.seed), "confused": seen.confused(), "mistakes": seen.mistakes(), "calibration": calibration(found)}
    path = folder.directory / NEIGHBOURS
    if path.is_file():
        made["neighbours"] = _neighbours(path, manifest, seen.records, train)
    return made


def _samples(records: Records, settings: Settings, stats: Stats) -> tuple[tuple[Picture, ...], ...]:
    lines = []
    for row in sample_rows(records, dict.fromkeys(range(4), settings.loader()), stats, SAMPLES):
        first = row.receipts[0]
        told = (printable(first.name), printable(first.key), f"record {first.record}, {first.shard} row {first.row}")
        cells = [Picture(row.framed, f"record {first.record}", told)]
        for made, image in zip(row.receipts, row.views, strict=True):
            colour = ", ".join(f"{level:+.1f}" for level in made.shift)
            place = f"epoch {made.epoch}: top {made.top}, left {made.left}{', mirrored' if made.flip else ''}"
            cells.append(Picture(image, f"its view in epoch {made.epoch}", (place, f"R, G, B {colour}")))
        lines.append(tuple(cells))
    return tuple(lines)


@dataclass(frozen=True)
class Seen:
    """Predictions with the images that they are of."""

    records: Records
    found: Predictions
    classes: tuple[str, ...]

    def guesses(self, seed: int) -> tuple[Picture, ...]:
        """Return eight images with their five most probable classes: a sample that the seed draws, not a choice."""
        return tuple(self._picture(i, self._name(int(self.found.labels[i])), bars=True) for i in self._sample(seed, GUESSES))

    def mistakes(self) -> tuple[Picture, ...]:
        """Return the wrong answers of the greatest confidence."""
        return tuple(self._picture(i, *self._wrong(i)) for i in worst_mistakes(self.found, MISTAKES))

    def confused(self) -> tuple[tuple[str, tuple[Picture, ...]], ...]:
        """Return the most frequent confusions, with images of each."""
        made = []
        for pair in confusions(self.found, PAIRS):
            own = ((self.found.labels == pair.label) & (self.found.best[:, 0] == pair.predicted)).nonzero()[:, 0]
            surest = own[self.found.p[own, 0].argsort(descending=True, stable=True)][:OF_A_PAIR].tolist()
            caption = f"{self._name(pair.label)} taken for {self._name(pair.predicted)}: {pair.count} of its images ({100 * pair.share:.0f} %)"
            made.append((caption, tuple(self._picture(i, f"{100 * float(self.found.p[i, 0]):.0f} % sure") for i in surest)))
        return tuple(made)

    def _sample(self, seed: int, most: int) -> list[int]:
        return shuffled(seed, 0, len(self.found.records))[:most].tolist() if len(self.found.records) else []

    def _wrong(self, i: int) -> tuple[str, str]:
        said, true = self._name(int(self.found.best[i, 0])), self._name(int(self.found.labels[i]))
        return f"said: {said}, {100 * float(self.found.p[i, 0]):.0f} %", f"true: {true}, {100 * float(self.found.true_p[i]):.1f} %"

    def _picture(self, i: int, *lines: str, bars: bool = False) -> Picture:
        record, label = int(self.found.records[i]), int(self.found.labels[i])
        key = printable(self.records.key(record))
        shown = zip(self.found.best[i].tolist(), self.found.p[i].tolist(), strict=True) if bars else ()
        made = tuple((self._name(number), p, number == label) for number, p in shown)
        return Picture(self.records.pixels(record), f"{self._name(label)}, record {record}", (*lines, key), made)

    def _name(self, label: int) -> str:
        return printable(self.classes[label])


def _neighbours(path: Path, manifest: Manifest, queries: Records, train: Records) -> tuple[tuple[Picture, ...], ...]:
    """Return the pictures of figure 4, right; DataError if the file is not what `alextrain figures` has written."""
    value = read_json(path)
    try:
        if value["plan"] != manifest.plan:
            raise DataError(f"{path} is of another data set than {manifest.directory}")
        rows: list[dict[str, Any]] = [
            {"record": int(one["record"]), "nearest": [(int(number), float(distance)) for number, distance in one["nearest"]]}
            for one in value["queries"]
        ]
        if not all(0 <= row["record"] < len(queries) and all(0 <= number < len(train) for number, _ in row["nearest"]) for row in rows):
            raise ValueError("a record is beyond the data")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}; alextrain figures writes it again") from error
    return nearest_pictures(rows, queries, train)


def nearest_pictures(rows: Sequence[dict[str, Any]], queries: Records, train: Records) -> tuple[tuple[Picture, ...], ...]:
    """Return each query's picture, then those of its nearest training images."""
    return tuple(
        (
            Picture(queries.pixels(record), f"query, record {record}", (_class_of(queries, record),)),
            *(Picture(train.pixels(n), f"record {n}", (_class_of(train, n), f"distance {distance:.1f}")) for n, distance in nearest),
        )
        for record, nearest in ((row["record"], row["nearest"]) for row in rows)
    )


def _class_of(records: Records, record: int) -> str:
    return printable(records.manifest.classes[int(records.labels(np.array([record]))[0])])
