"""Draw the paper's figures 3 and 4 of a run as PNG files; find the neighbours for its report."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from alexprep.model.distributed import Ranks
from alexprep.model.evaluation.figures import chroma, kernels
from alexprep.model.networks.presets import PRESETS
from alexprep.model.report.report import Picture
from alexprep.pipeline import DataError, Records, read_manifest
from alexprep.pipeline.batches.sampler import shuffled
from alexprep.pipeline.inspection.replay import write_png
from alexprep.pipeline.storage.files import published, write_json

from ..checkpoint import LAST, first_kernels
from ..measuring.evaluate import Trained, measure
from ..measuring.features import neighbours
from ..progress import Progress, Silent
from ..run_folder import RunFolder
from ..splits import split_or_default
from .report_data import GUESSES, NEIGHBOURS, REPORT, Seen, nearest_pictures, write_report

FIGURE_3, FIGURE_4 = "figure-3.png", "figure-4.png"


def draw_figures(
    folder: RunFolder,
    data: Path | None,
    checkpoint: str | None,
    wanted: tuple[int, int, int],
    ranks: Ranks,
    cache: dict[str, Any],
    progress: Progress = Silent,
) -> dict[str, Any]:
    """Publish the figures of a checkpoint of the run; return their content and the files written.

    wanted   number of queries, number of nearest images of each, seed

    DataError if the checkpoint or the data set is not that of the run.
    """
    queries, nearest, seed = wanted
    name = checkpoint or LAST
    if Path(name).name != name:
        raise DataError(f"--checkpoint must be the name of a file in {folder.directory}, got {name}")
    trained = Trained.load(folder.directory / name, ranks, None)
    manifest = read_manifest(data or (start.data if (start := folder.start()) and start.data else "shards"))
    if manifest.plan != trained.plan:
        raise DataError(f"{manifest.directory} is not the data set that {folder.directory} was trained on; give that one with --data")
    split = split_or_default(manifest, None)
    shown, train = Records(manifest, split), Records(manifest, "train")
    numbers = shuffled(seed, 0, len(shown))[: GUESSES + queries].tolist()
    asked = numbers[GUESSES:] or numbers
    found = neighbours(trained, manifest, (split, asked), "train", nearest, ranks, cache, progress)
    rows = [
        {"record": record, "nearest": [list(pair) for pair in zip(records, distances, strict=True)]}
        for record, records, distances in zip(asked, found.records.tolist(), found.distances.tolist(), strict=True)
    ]
    write_json(folder.directory / NEIGHBOURS, {"plan": manifest.plan, "split": split, "step": trained.step, "queries": rows})
    found_by, _ = measure([trained], manifest.directory, split, 1, ranks, cache=cache, progress=progress)
    seen = Seen(shown, found_by, manifest.classes)
    weight = first_kernels(trained.model.state_dict())
    assert weight is not None  # every AlexNet has them
    towers = PRESETS[trained.settings.network.preset].towers
    write_png(folder.directory / FIGURE_3, kernels(weight, towers))
    with published(folder.directory / FIGURE_4) as file:
        file.write(_figure_4(seen.guesses(seed), nearest_pictures(rows, shown, train)))
    write_report([folder], folder.directory / REPORT, data)
    files = [str(folder.directory / name) for name in (FIGURE_3, FIGURE_4, NEIGHBOURS, REPORT)]
    return {"step": trained.step, "chroma": chroma(weight, towers), "neighbours": rows, "files": files}


def _figure_4(guesses: tuple[Picture, ...], rows: tuple[tuple[Picture, ...], ...]) -> bytes:
    """Return figure 4 as a PNG. Above are images with bars of their five most probable classes; below, queries with their nearest images."""
    from matplotlib.figure import Figure

    columns = 4
    bands = -(-len(guesses) // columns)
    widest = max((len(row) for row in rows), default=1)
    figure = Figure(figsize=(10, 3.4 * bands + 1.5 * len(rows)), layout="constrained")
    upper, lower = np.ravel(figure.subfigures(2, 1, squeeze=False, height_ratios=[3.4 * bands, max(0.1, 1.5 * len(rows))]))
    for number, picture in enumerate(guesses):
        axes = upper.add_subplot(2 * bands, columns, number // columns * 2 * columns + number % columns + 1)
        _image(axes, picture, picture.lines[0])
        axes = upper.add_subplot(2 * bands, columns, (number // columns * 2 + 1) * columns + number % columns + 1)
        names, values, true = zip(*picture.bars, strict=True)
        axes.barh(range(len(names)), values, color=["#d2542f" if one else "#9db7e0" for one in true])
        axes.set(xlim=(0, 1), ylim=(4.6, -0.6), xticks=[], yticks=[])
        for place, name in enumerate(names):
            axes.text(0.02, place, name[:34], va="center", fontsize=7)
    for row_number, row in enumerate(rows):
        for number, picture in enumerate(row):
            _image(lower.add_subplot(len(rows), widest, row_number * widest + number + 1), picture, picture.lines[0][:18] if not number else "")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def _image(axes: Any, picture: Picture, title: str) -> None:  # noqa: ANN401  (matplotlib's)
    axes.imshow(np.asarray(picture.image))
    axes.set_axis_off()
    axes.set_title(title, fontsize=7, pad=2, parse_math=False)
