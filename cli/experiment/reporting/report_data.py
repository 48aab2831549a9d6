"""Gather what the report page shows of runs.

Parts whose files are missing (the data, a checkpoint, predictions) are left out, with a note.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from alexprep.model.evaluation.analysis import calibration, confusions, worst_mistakes
from alexprep.model.evaluation.evaluator import Predictions
from alexprep.model.evaluation.figures import chroma, kernels
from alexprep.model.events import last_start
from alexprep.model.networks.presets import PRESETS
from alexprep.model.report.report import Picture, RunView, render
from alexprep.pipeline import DataError, Manifest, Records, Stats, load_stats, read_manifest
from alexprep.pipeline.batches.sampler import shuffled
from alexprep.pipeline.errors import printable
from alexprep.pipeline.inspection.preview import rows as sample_rows
from alexprep.pipeline.storage.files import published, read_array, read_json

from ..checkpoint import checkpoint_stats, first_kernels, load_checkpoint
from ..config import RunConfig
from ..measuring.predictions import read_predictions
from ..run_folder import PREDICTIONS, RunFolder
from .timeline import marks

REPORT, NEIGHBOURS = "report.html", "neighbours.json"
GUESSES = 8  # images on the left of figure 4
# confused pairs of classes, images of a pair, wrong answers, records with sample views
PAIRS, OF_A_PAIR, MISTAKES, SAMPLES = 6, 4, 14, 4
MOST_FRAMES = 40  # maximum frames of the kernels
MOST_NUMBERS = 1 << 24  # maximum numbers of a frame


def write_report(folders: Sequence[RunFolder], out: Path, data: Path | None = None) -> Path:
    """Publish the page of these runs; `data` is the folder of their shards, if they were moved."""
    page = render(views(folders, data))
    with published(out) as file:
        file.write(page.encode())
    return out


def views(folders: Sequence[RunFolder], data: Path | None = None, *, pictures: bool = True) -> list[RunView]:
    """Return what the page shows of runs; without `pictures`, the curves and kernels alone.

    A run's name is the end of its path, as long as is needed to distinguish the runs.
    """
    paths = [folder.directory.resolve().parts for folder in folders]
    length = next((n for n in range(1, max(map(len, paths))) if len({path[-n:] for path in paths}) == len(set(paths))), 1)
    return [view(folder, "/".join(path[-length:]), data, pictures=pictures) for folder, path in zip(folders, paths, strict=True)]


def view(folder: RunFolder, name: str, data: Path | None, *, pictures: bool) -> RunView:
    """Return what the page shows of one run, under the name `name`."""
    events = folder.events()
    settings = folder.settings()
    plain = RunView(name, events, marks=marks(events, settings), kernels=_kernels(folder, settings, also_last=pictures))
    if not pictures:
        return plain
    start = last_start(events)
    notes: list[str] = []
    shown: dict[str, Any] = {"facts": {"folder": str(folder.directory)}}
    where = data or (start and start.data)
    try:
        if where is None or not isinstance(where, str | Path) or "://" in str(where):
            raise DataError("the pictures need the shards on a local disk: give --data")
        manifest = read_manifest(where)
        if start is not None and start.plan not in (None, manifest.plan):
            raise DataError(f"{where} is not the data set that the run was trained on")
        shown["facts"] |= {"records": ", ".join(f"{name} {split.records:,}" for name, split in manifest.splits.items())}
        shown |= _pictures(folder, manifest, settings, notes)
    except DataError as error:
        if data is not None:
            raise
        if where != "--data synthetic":
            notes.append(f"No images are shown: {error}")
    return replace(plain, **shown, notes=tuple(notes))


def _kernels(folder: RunFolder, settings: RunConfig, *, also_last: bool) -> dict[int, tuple[np.ndarray, list[float]]]:
    """Return figure 3 and the chroma fractions at each step of which the kernels are kept.

    `also_last`: if no kernels are kept, use those of the last checkpoint.
    """
    towers = PRESETS[settings.network.preset].towers if settings.alexnet else 1
    frames = {}
    for step, path in list(folder.kernels().items())[-MOST_FRAMES:]:
        try:
            frame = _frame(path, path.stat().st_mtime_ns, towers)
        except OSError:
            continue
        if frame is not None:
            frames[step] = frame
    if not frames and also_last:  # the run of a release that kept none
        try:
            state = load_checkpoint(folder.directory)
        except DataError:
            return {}
        last = first_kernels(state["model"])
        frames = {} if last is None else {int(state["step"]): (kernels(last, towers, scale=1), chroma(last, towers))}
    return frames


@lru_cache(maxsize=4 * MOST_FRAMES)
def _frame(path: Path, _changed: int, towers: int) -> tuple[np.ndarray, list[float]] | None:
    """Return figure 3 of a file of kernels, and the chroma fractions. None if the file does not hold kernels; the report shows one frame fewer."""
    try:
        values = torch.from_numpy(np.asarray(read_array(path, 4 * MOST_NUMBERS), np.float32))
    except (DataError, ValueError, OSError, TypeError):
        return None
    if (
        values.ndim != 4
        or values.shape[1] != 3
        or len(values) < towers
        or not 0 < values.numel() <= MOST_NUMBERS
        or not bool(values.isfinite().all())
    ):
        return None
    return kernels(values, towers, scale=1), chroma(values, towers)


def _stats(folder: RunFolder, manifest: Manifest) -> Stats:
    try:
        return checkpoint_stats(load_checkpoint(folder.directory))
    except DataError:  # before the first checkpoint
        return load_stats(manifest)


def _pictures(folder: RunFolder, manifest: Manifest, settings: RunConfig, notes: list[str]) -> dict[str, Any]:
    train = Records(manifest, "train")
    made: dict[str, Any] = {"samples": _samples(train, settings, _stats(folder, manifest))}
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        PREDICTIONS: lambda path: _said(path, manifest, settings.data.seed),
        NEIGHBOURS: lambda path: {"neighbours": _neighbours(path, manifest, train)},
    }
    for name, part in parts.items():
        path = folder.directory / name
        try:
            if path.is_file():
                made |= part(path)
            elif name == PREDICTIONS:
                notes.append("What the network says of single images is shown when the run has finished.")
        except DataError as error:
            notes.append(f"Something is left out: {error}")
    return made


def _said(path: Path, manifest: Manifest, seed: int) -> dict[str, Any]:
    """Return pictures and calibration from a predictions file; DataError if it does not fit."""
    found, facts = read_predictions(path)
    if facts.get("plan") != manifest.plan:
        raise DataError(f"{path} is from another data set than {manifest.directory}")
    records = Records(manifest, str(facts.get("split")))
    if len(found.records) and not 0 <= int(found.records.min()) <= int(found.records.max()) < len(records):
        raise DataError(f"{path} has record numbers beyond those of {manifest.directory}")
    seen = Seen(records, found, manifest.classes)
    return {"guesses": seen.guesses(seed), "confused": seen.confused(), "mistakes": seen.mistakes(), "calibration": calibration(found)}


def _samples(records: Records, settings: RunConfig, stats: Stats) -> tuple[tuple[Picture, ...], ...]:
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
    """Predictions and their images."""

    records: Records
    found: Predictions
    classes: tuple[str, ...]

    def guesses(self, seed: int) -> tuple[Picture, ...]:
        """Return eight images, drawn by the seed, with their five most probable classes."""
        return tuple(self._picture(i, self._name(int(self.found.labels[i])), bars=True) for i in self._sample(seed, GUESSES))

    def mistakes(self) -> tuple[Picture, ...]:
        """Return the wrong answers with the highest probability."""
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


def _neighbours(path: Path, manifest: Manifest, train: Records) -> tuple[tuple[Picture, ...], ...]:
    """Return the pictures on the right of figure 4. DataError if the file is not what `alextrain figures` writes for this data set."""
    value = read_json(path)
    try:
        if value["plan"] != manifest.plan:
            raise DataError(f"{path} is from another data set than {manifest.directory}")
        queries, step = Records(manifest, str(value["split"])), int(value["step"])
        rows: list[dict[str, Any]] = [
            {"record": int(one["record"]), "nearest": [(int(number), float(distance)) for number, distance in one["nearest"]]}
            for one in value["queries"]
        ]
        if not all(0 <= row["record"] < len(queries) and all(0 <= number < len(train) for number, _ in row["nearest"]) for row in rows):
            raise ValueError("the data set does not have one of its records")
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is damaged: {error}; alextrain figures writes it again") from error
    return nearest_pictures(rows, queries, train, f"the network after step {step}")


def nearest_pictures(rows: Sequence[dict[str, Any]], queries: Records, train: Records, *lines: str) -> tuple[tuple[Picture, ...], ...]:
    """Return each query's picture, captioned with `lines`, and its nearest training images."""
    return tuple(
        (
            Picture(queries.pixels(record), f"query, record {record}", (_class_of(queries, record), *lines)),
            *(Picture(train.pixels(n), f"record {n}", (_class_of(train, n), f"distance {distance:.1f}")) for n, distance in nearest),
        )
        for record, nearest in ((row["record"], row["nearest"]) for row in rows)
    )


def _class_of(records: Records, record: int) -> str:
    return printable(records.manifest.classes[int(records.labels(np.array([record]))[0])])
