"""Tables that `alextrain describe`, `eval` and `predict` print."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alexprep.experiment.measuring.evaluate import Measurement
from alexprep.model.networks.alexnet import AlexNet, parameters
from alexprep.model.networks.summary import LayerRow, describe
from alexprep.pipeline.errors import printable

HEADERS = ("layer", "kernel", "output", "a tower", "parameters", "multiply-adds", "activation")


def layers(model: AlexNet, crop: int) -> str:
    """Return the layers as text, with totals."""
    rows = describe(model, crop)
    lines = [HEADERS, *(_cells(row, model.preset.towers) for row in rows), _total(rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADERS))]
    text = [
        "  ".join(cell.ljust(width) if i < 4 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join([*text, "", f"{parameters(model):,} parameters; bytes of activation: float32, one image"])


def layers_json(model: AlexNet, crop: int) -> dict[str, Any]:
    """Return the layers, with totals, for JSON output."""
    rows = describe(model, crop)
    totals = {name: sum(getattr(row, name) for row in rows) for name in ("parameters", "multiply_adds", "activation_bytes")}
    return {"layers": [asdict(row) for row in rows], "towers": model.preset.towers, **totals}


def _cells(row: LayerRow, towers: int) -> tuple[str, ...]:
    output = "x".join(map(str, row.output))
    own = "x".join(map(str, (row.output[0] // towers, *row.output[1:]))) if towers > 1 and row.output[0] % towers == 0 else output
    return (row.layer, row.kernel, output, own, f"{row.parameters:,}", f"{row.multiply_adds:,}", f"{row.activation_bytes:,}")


def _total(rows: Sequence[LayerRow]) -> tuple[str, ...]:
    sums = (sum(getattr(row, name) for row in rows) for name in ("parameters", "multiply_adds", "activation_bytes"))
    return ("all", "", "", "", *(f"{total:,}" for total in sums))


def evaluated(found: Measurement, most: int = 10) -> str:
    """Return an evaluation as text. It has the errors with their intervals, calibration, and the `most` worst classes and confusions."""
    result, rows, pairs, trust, names = found.evaluation, found.by_class(), found.confusions(), found.calibration(), found.classes
    what = f"{found.split}, {'ten views averaged' if found.views == 10 else 'the centre view'}"
    low1, high1, low5, high5 = (100 * end for both in result.intervals().values() for end in both)
    errors = (
        f"top-1 error {100 * result.top1_error:.2f} % (95 %: {low1:.2f} to {high1:.2f})   "
        f"top-5 error {100 * result.top5_error:.2f} % ({low5:.2f} to {high5:.2f})   loss {result.loss:.4f}"
    )
    lines = [
        f"{result.count:,} images of {what}",
        errors,
        f"calibration: the probability of the best class is off by {100 * trust.error:.1f} % on average",
    ]
    worst = sorted(rows, key=lambda row: (-row.top1_error, row.label))[:most]
    width = max((len(printable(names[row.label])) for row in worst), default=0)
    lines += ["", f"the {len(worst)} worst of {len(rows)} classes" if len(rows) > most else "classes, the worst first"]
    for row in worst:
        taken = "" if row.taken_for is None else f"   most often taken for {printable(names[row.taken_for])}"
        lines.append(f"  {printable(names[row.label]).ljust(width)}  {100 * row.top1_error:6.2f} % of {row.count}{taken}")
    if pairs:
        lines += ["", "most often confused"]
        lines += [
            f"  {printable(names[pair.label])} taken for {printable(names[pair.predicted])}: {pair.count} ({100 * pair.share:.0f} %)"
            for pair in pairs[:most]
        ]
    return "\n".join(lines)


def bars(path: Path, answer: Sequence[tuple[str, int, float]], width: int = 40) -> str:
    """Return an image's most probable classes as lines with bars."""
    longest = max(len(printable(name)) for name, _, _ in answer)
    lines = [f"{printable(name).ljust(longest)}  {100 * p:6.2f} %  {'█' * round(p * width) or '▏'}" for name, _, p in answer]
    return "\n".join([printable(str(path)), *(f"  {line}" for line in lines)])
