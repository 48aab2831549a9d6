"""What `alextrain describe` prints."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from alexprep.model.alexnet import AlexNet, parameters
from alexprep.model.describe import Row, describe

HEADERS = ("layer", "kernel", "output", "a tower", "parameters", "multiply-adds", "activation")


def table(model: AlexNet, crop: int) -> str:
    """Return the layers as text, with totals."""
    rows = describe(model, crop)
    lines = [HEADERS, *(_cells(row, model.preset.towers) for row in rows), _total(rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADERS))]
    text = [
        "  ".join(cell.ljust(width) if i < 4 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join([*text, "", f"{parameters(model):,} parameters; bytes of activation: float32, one image"])


def to_json(model: AlexNet, crop: int) -> dict[str, Any]:
    """Return the same for machines."""
    rows = describe(model, crop)
    totals = {name: sum(getattr(row, name) for row in rows) for name in ("parameters", "multiply_adds", "activation_bytes")}
    return {"layers": [asdict(row) for row in rows], "towers": model.preset.towers, **totals}


def _cells(row: Row, towers: int) -> tuple[str, ...]:
    output = "x".join(map(str, row.output))
    own = "x".join(map(str, (row.output[0] // towers, *row.output[1:]))) if towers > 1 and row.output[0] % towers == 0 else output
    return (row.layer, row.kernel, output, own, f"{row.parameters:,}", f"{row.multiply_adds:,}", f"{row.activation_bytes:,}")


def _total(rows: Sequence[Row]) -> tuple[str, ...]:
    sums = (sum(getattr(row, name) for row in rows) for name in ("parameters", "multiply_adds", "activation_bytes"))
    return ("all", "", "", "", *(f"{total:,}" for total in sums))
