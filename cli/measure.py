"""`alextrain eval | features | predict`: what a trained network says."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .common import print_json, say
from .options import CHECKPOINT, DATA, DEVICE, OWN, SPLIT, cache_options, cached, check_place, place_options

PRECISION = click.option(
    "--precision",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "bfloat16"]),
    help="Of the arithmetic; bfloat16 is twice as fast on a CPU that has it.",
)


@click.command("eval")
@click.option(
    "--checkpoint",
    "checkpoints",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="Run's folder or .pt file; several: an ensemble.",
)
@DATA
@SPLIT
@OWN
@click.option("--crops", default="10", show_default=True, type=click.Choice(["10", "1"]), help="Ten views averaged, or the centre alone.")
@PRECISION
@place_options
@cache_options
@click.option("--predictions", type=click.Path(path_type=Path), help="Parquet file to write: five best classes of every record.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def evaluate(
    arguments: list[str],
    /,
    checkpoints: tuple[Path, ...],
    data: Path,
    split: str | None,
    model: str,
    crops: str,
    precision: str,
    device: str,
    gpus: int | None,
    cpu_ranks: int | None,
    cache: Path | None,
    cache_size: int,
    predictions: Path | None,
    as_json: bool,
) -> None:
    """Measure a checkpoint: top-1 and top-5 error with their 95 % intervals, by class, what is taken for what, and calibration.

    Every record counts once, at any number of ranks. Several checkpoints are measured together: the mean of their probabilities.
    """
    import torch
    from alexprep.model.distributed import joined
    from alexprep.model.environment import launched
    from alexprep.model.evaluation.analysis import by_class, calibration, confusions
    from alexprep.pipeline import read_manifest

    from .building import split_or_default
    from .describing import evaluated
    from .evaluating import Trained, measure, write_predictions
    from .launch import choose_layout, launch
    from .runs import load_checkpoint

    check_place(predictions, ".parquet")
    layout = choose_layout(device, gpus, cpu_ranks)
    manifest = read_manifest(data)
    split = split_or_default(manifest, split)
    if layout.ranks > 1 and not launched():
        for checkpoint in checkpoints:
            load_checkpoint(checkpoint)  # what is wrong is said once, here
        raise SystemExit(launch(layout.ranks, arguments))
    with joined(layout.device, tell=say) as ranks:
        trained = [Trained.load(path, ranks, model) for path in checkpoints]
        found, records = measure(trained, data, split, int(crops), ranks, cached(cache, cache_size), getattr(torch, precision))
        result = found.evaluation()
    if not ranks.first:
        return
    rows, pairs, trust = by_class(found), confusions(found), calibration(found)
    if as_json:
        names = manifest.classes
        classes = [asdict(row) | {"name": names[row.label]} for row in rows]
        confused = [asdict(pair) | {"name": names[pair.label], "predicted_name": names[pair.predicted]} for pair in pairs[:100]]
        head = {"crops": int(crops), "split": split, "checkpoints": [str(path) for path in checkpoints], **asdict(result), **result.intervals()}
        print_json(head | {"classes": classes, "confusions": confused, "calibration": asdict(trust)})
    else:
        click.echo(
            evaluated(result, f"{split}, {'ten views averaged' if crops == '10' else 'the centre view'}", rows, pairs, trust, manifest.classes)
        )
    if predictions is not None:
        facts = {"split": split, "views": int(crops), "plan": manifest.plan, "checkpoints": [str(path) for path in checkpoints]}
        write_predictions(predictions, found, records, facts)


@click.command()
@CHECKPOINT
@DATA
@SPLIT
@DEVICE
@cache_options
@click.option("--out", default=Path("features.parquet"), show_default=True, type=click.Path(path_type=Path), help="Parquet file to write.")
def features(checkpoint: Path, data: Path, split: str | None, device: str, cache: Path | None, cache_size: int, out: Path) -> None:
    """Write the last hidden vectors (fc7, 4096 numbers an image at width 1) of a split's centre views as parquet.

    Columns: record, key, label, features (a list of float32). Row groups are written as they are made: any number of records fits.
    """
    from alexprep.model.distributed import joined
    from alexprep.pipeline import read_manifest

    from .building import split_or_default
    from .featuring import write_features
    from .launch import alone

    check_place(out, ".parquet")
    manifest = read_manifest(data)
    with joined(alone(device)) as ranks:
        count, width = write_features(checkpoint, manifest, split_or_default(manifest, split), ranks, cached(cache, cache_size), out)
    click.echo(f"{out}: {count:,} vectors of {width} numbers")


@click.command()
@CHECKPOINT
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@OWN
@DEVICE
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects, one an image.")
def predict(checkpoint: Path, images: tuple[Path, ...], model: str, device: str, as_json: bool) -> None:
    """Classify images (any that `alexprep shard` takes) with ten views, and print the five most probable classes."""
    from alexprep.model.distributed import joined

    from .describing import bars
    from .launch import alone
    from .predicting import classify

    with joined(alone(device)) as ranks:
        answers: list[dict[str, Any]] = []
        for path, answer in classify(checkpoint, images, ranks, model):
            answers.append({"image": str(path), "classes": [{"name": name, "label": label, "p": p} for name, label, p in answer]})
            if not as_json:
                click.echo(bars(path, answer))
    if as_json:
        print_json(answers)
