"""`alexprep` commands that show what training is given: replay one sample, preview many."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .common import print_json, say, wrong_values
from .settings import resolve, schedule_of
from .shards import DIRECTORY, JSON

RUN = click.option("--run", type=click.Path(path_type=Path), help="Folder of a run: its seed, batch size, crop and so on.")
SPLIT = click.option("--split", help="[default: train, or the only one]")
SEED = click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="[default: 0, or the run's]")
CROP = click.option("--crop", type=click.IntRange(1), help="Pixels a side.  [default: 224, or the run's]")
COLOUR = click.option("--colour", type=click.FloatRange(0), help="Standard deviation of the alphas.  [default: 0.1, or the run's]")
SHUFFLE = click.option("--shuffle", type=click.Choice(["full", "block"]), help="[default: full, or the run's]")


def _opened(directory: str, run: Path | None, step: int | None, epoch: int, given: dict[str, Any]) -> Any:  # noqa: ANN401  (their modules are heavy)
    """Return the records, the loader's config (the run's, or a loader's defaults, but for what is given) and the statistics.

    Of a run, the colour is that of the schedule in `epoch`, or in the epoch of `step`.
    """
    from alexprep.pipeline import LoaderConfig, Records, read_manifest
    from alexprep.pipeline.order import Plan
    from alexprep.pipeline.stats import stats_for

    manifest = read_manifest(directory)
    changes = {"split": manifest.main_split, "views": "random"} | {name: value for name, value in given.items() if value is not None}
    with wrong_values():
        settings = None if run is None else resolve(None, run / "config.toml" if run.is_dir() else run, {}, ())
        config = LoaderConfig(**changes) if settings is None else settings.loader(**changes)
    records = Records(manifest, config.split)
    if settings is not None and given["colour"] is None:
        epoch = epoch if step is None else step // Plan.of(len(records), config).steps
        config = config if schedule_of(settings).phase(epoch).colour else replace(config, colour=0.0)
    return records, config, stats_for(manifest, config.split)


@click.command()
@DIRECTORY
@click.option("--step", required=True, type=click.IntRange(0), help="Since the start of the first epoch, as in metrics.jsonl.")
@click.option("--index", required=True, type=click.IntRange(0), help="Of the sample in the global batch.")
@RUN
@SPLIT
@click.option("--batch-size", type=click.IntRange(1), help="Of all ranks together.  [default: 128, or the run's]")
@SEED
@CROP
@COLOUR
@SHUFFLE
@click.option("--out", type=click.Path(path_type=Path), help="PNG to write.  [default: step-STEP-index-INDEX.png]")
@JSON
def replay(directory: str, step: int, index: int, run: Path | None, out: Path | None, as_json: bool, **given: Any) -> None:  # noqa: ANN401
    """Draw one sample of a training run again, and say what made it: its receipt.

    The PNG shows the sample before the mean is subtracted, and carries the receipt as its comment. Of the shards in DIRECTORY
    (shards/, or $ALEXPREP_DATA); any number of ranks has the same samples.
    """
    from alexprep.pipeline.receipts import receipt, sample, write_png

    records, config, stats = _opened(directory, run, step, 0, given)
    made = receipt(records, config, stats, step, index)
    path = out or Path(f"step-{step}-index-{index}.png")
    write_png(path, sample(records, config, stats, made), made)
    if as_json:
        print_json(made.to_json() | {"png": str(path)})
        return
    click.echo(f"step {step} is in epoch {made.epoch}; sample {index} is record {made.record}: {made.shard} row {made.row}")
    click.echo(f"key      {made.key}\nlabel    {made.label} ({made.name})")
    click.echo(f"crop     {config.crop}x{config.crop} from top {made.top}, left {made.left}{', mirrored' if made.flip else ''}")
    click.echo("alphas   " + " ".join(f"{alpha:+.4f}" for alpha in made.alphas))
    click.echo("R, G, B  " + " ".join(f"{level:+.3f}" for level in made.shift) + "\n" + str(path))


@click.command()
@DIRECTORY
@RUN
@SPLIT
@SEED
@CROP
@COLOUR
@click.option("--epoch", default=0, show_default=True, type=click.IntRange(0), help="First epoch whose views are shown.")
@click.option("--records", "count", default=8, show_default=True, type=click.IntRange(1, 200), help="Rows of the sheet.")
@click.option("--views", "epochs", default=4, show_default=True, type=click.IntRange(1, 20), help="Views of each, one an epoch.")
@click.option("--out", default=Path("preview.html"), show_default=True, type=click.Path(path_type=Path), help="A .html with receipts, or a .png.")
@click.option("--check", is_flag=True, help="Test the order and the draws of this seed statistically instead; exit 1 if one looks wrong.")
def preview(directory: str, run: Path | None, epoch: int, count: int, epochs: int, out: Path, check: bool, **given: Any) -> None:  # noqa: ANN401
    """Draw a contact sheet of the augmentation: records with their crops, and the views that training sees.

    Of the shards in DIRECTORY (shards/, or $ALEXPREP_DATA).
    """
    from alexprep.pipeline.preview import page, rows, sheet
    from alexprep.pipeline.receipts import write_png
    from alexprep.pipeline.storage import published

    if out.suffix.lower() not in (".html", ".png"):
        raise click.UsageError(f"--out must end in .html or .png, got {out}")
    records, config, stats = _opened(directory, run, None, epoch, given)
    if check:
        _check(config.seed, epoch, records.manifest.config.size - config.crop)
        return
    made = rows(records, config, stats, count, range(epoch, epoch + epochs))
    if out.suffix.lower() == ".png":
        write_png(out, sheet(made))
    else:
        with published(out) as file:
            file.write(page(made, f"{directory}, {config.split}, seed {config.seed}").encode())
    click.echo(out)


def _check(seed: int, epoch: int, room: int) -> None:
    from alexprep.pipeline.selfcheck import BOUND, RECORDS, check_draws, check_order

    findings = [*check_order(seed, epoch, RECORDS), *check_draws(seed, epoch, RECORDS, max(room, 0))]
    for found in findings:
        click.echo(f"{'ok' if found.good else 'WRONG':<6}{found.z:+6.2f}  {found.name}")
    bad = sum(not found.good for found in findings)
    say(f"{len(findings)} tests on {RECORDS:,} records; standard deviations from what is expected, at most {BOUND} of which are chance")
    if bad:
        raise click.ClickException(f"{bad} of {len(findings)} tests of seed {seed}, epoch {epoch} are beyond chance; please report it")
