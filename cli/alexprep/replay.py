"""`alexprep replay`: draw one sample of a training run again."""

from pathlib import Path
from typing import Any

import click

from ..data_options import DIRECTORY
from ..options import JSON, Grouped
from ..sample_options import COLOUR, CROP, RUN, SEED, SHUFFLE, SPLIT, opened
from ..text import print_json


@click.command(cls=Grouped)
@DIRECTORY
@click.option(
    "--step",
    required=True,
    type=click.IntRange(0, 2**63 - 1),
    help="Step of the sample, from 0 in the first epoch.",
)
@click.option("--index", required=True, type=click.IntRange(0), help="Place of the sample in the batch of all ranks.")
@RUN
@SPLIT
@click.option("--batch-size", type=click.IntRange(1), help="Records of a batch, of all ranks together.  [default: 128, or the run's]")
@SEED
@CROP
@COLOUR
@SHUFFLE
@click.option("--out", type=click.Path(path_type=Path), help="PNG to write.  [default: step-STEP-index-INDEX.png]")
@JSON
def replay(directory: str, step: int, index: int, run: Path | None, out: Path | None, as_json: bool, **given: Any) -> None:  # noqa: ANN401
    """Draw one sample of a training run again, with its receipt.

    The receipt says which record it is, and its crop, mirror and colour. The PNG shows the sample before the mean is subtracted,
    and carries the receipt as its comment. The shards are those in DIRECTORY (shards/, or $ALEXPREP_DATA). The samples are the same
    for any number of ranks.
    """
    from alexprep.pipeline.batches.sampler import Sampler
    from alexprep.pipeline.errors import printable
    from alexprep.pipeline.inspection.replay import receipt, sample, write_png

    records, config_in, stats = opened(directory, run, given)
    config = config_in(step // Sampler.of(len(records), config_in(0)).steps)
    made = receipt(records, config, stats, step, index)
    path = out or Path(f"step-{step}-index-{index}.png")
    write_png(path, sample(records, config, stats, made), made)
    if as_json:
        print_json(made.to_json() | {"png": str(path)})
        return
    instead = "" if made.instead_of is None else f", instead of {made.instead_of}, which is damaged"
    click.echo(f"step {step} is in epoch {made.epoch}; sample {index} is record {made.record}{instead}: {printable(made.shard)} row {made.row}")
    click.echo(f"key      {printable(made.key)}\nlabel    {made.label} ({printable(made.name)})")
    click.echo(f"crop     {config.crop}x{config.crop} from top {made.top}, left {made.left}{', mirrored' if made.flip else ''}")
    click.echo("alphas   " + " ".join(f"{alpha:+.4f}" for alpha in made.alphas))
    click.echo("R, G, B  " + " ".join(f"{level:+.3f}" for level in made.shift) + "\n" + str(path))
