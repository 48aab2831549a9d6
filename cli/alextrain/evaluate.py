"""`alextrain eval`: measure a checkpoint, or several as an ensemble."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..errors import wrong_values
from ..options import DATA, JSON, SPLIT, USER_NETWORK, Grouped, cached, check_place, group, place_group
from ..progress import Bar
from ..text import print_json, say


@click.command("eval", cls=Grouped)
@group(
    "Measurement",
    click.option(
        "--checkpoint",
        "checkpoints",
        required=True,
        multiple=True,
        type=click.Path(path_type=Path),
        help="Folder of a run, or a .pt file; several are measured together, as an ensemble.",
    ),
    DATA,
    SPLIT,
    USER_NETWORK,
    click.option("--crops", default="10", show_default=True, type=click.Choice(["10", "1"]), help="Views of a record: ten averaged, or the centre."),
    click.option(
        "--precision",
        default="float32",
        show_default=True,
        type=click.Choice(["float32", "bfloat16"]),
        help="Arithmetic; bfloat16 is twice as fast on a CPU that has it.",
    ),
)
@group(
    "Output",
    click.option("--predictions", type=click.Path(path_type=Path), help="Parquet file to write: the five best classes of every record."),
    JSON,
)
@place_group()
@click.pass_obj
def evaluate(
    arguments: list[str],
    /,
    checkpoints: tuple[Path, ...],
    data: Path,
    split: str | None,
    model: str,
    crops: str,
    precision: Any,  # noqa: ANN401  (a choice)
    device: str,
    gpus: int | None,
    cpu_ranks: int | None,
    cache: Path | None,
    cache_size: int,
    predictions: Path | None,
    as_json: bool,
) -> None:
    """Measure a checkpoint, or several together.

    It prints the errors with their 95 % intervals, the errors by class, confusions and calibration. Every record counts once, at
    any number of ranks. Several checkpoints are measured together: the mean of their probabilities.
    """
    from alexprep.experiment.measuring.evaluate import evaluate as measure
    from alexprep.experiment.process.launch import choose_place
    from alexprep.model.distributed import joined
    from alexprep.model.environment import launched

    check_place(predictions, ".parquet")
    with wrong_values():
        place = choose_place(device, gpus, cpu_ranks)
    if place.note:
        say(place.note)
    if place.ranks > 1 and not launched():
        _start_ranks(arguments, place.ranks, checkpoints, data, split)
    with joined(place.device, tell=say) as ranks:
        found = measure(
            checkpoints,
            data,
            split,
            10 if crops == "10" else 1,
            ranks=ranks,
            model=model,
            precision=precision,
            cache=cached(cache, cache_size),
            progress=Bar,
        )
    if not ranks.first:
        return
    if as_json:
        print_json(_as_json(found))
    else:
        from .tables import evaluated

        click.echo(evaluated(found))
    if predictions is not None:
        found.write(predictions)


def _start_ranks(arguments: list[str], count: int, checkpoints: tuple[Path, ...], data: Path, split: str | None) -> None:
    """Start the ranks, and exit with their exit code. The files are checked first, so that an error is reported once instead of by every rank."""
    from alexprep.experiment.checkpoint import load_checkpoint
    from alexprep.experiment.process.launch import launch
    from alexprep.experiment.process.programs import again
    from alexprep.experiment.splits import split_or_default
    from alexprep.pipeline import read_manifest

    split_or_default(read_manifest(data), split)
    for checkpoint in checkpoints:
        load_checkpoint(checkpoint)
    code, message = launch(count, [*again("alextrain"), *arguments])
    if message:
        say(message)
    raise SystemExit(code)


def _as_json(found: Any) -> dict[str, Any]:  # noqa: ANN401  (a Measurement, imported late)
    """Return a measurement for JSON output."""
    names, result = found.classes, found.evaluation
    classes = [asdict(row) | {"name": names[row.label]} for row in found.by_class()]
    confused = [asdict(pair) | {"name": names[pair.label], "predicted_name": names[pair.predicted]} for pair in found.confusions()[:100]]
    head = {"crops": found.views, "split": found.split, "checkpoints": [str(path) for path in found.checkpoints]}
    return head | asdict(result) | result.intervals() | {"classes": classes, "confusions": confused, "calibration": asdict(found.calibration())}
