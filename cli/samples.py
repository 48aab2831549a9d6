"""`alexprep` commands that show what training is given: replay one sample, preview many."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .common import a_number, print_json, say, wrong_values
from .settings import resolve, schedule_of
from .shards import DIRECTORY, JSON

RUN = click.option("--run", type=click.Path(path_type=Path), help="Folder of a run: its seed, batch size, crop and so on.")
SPLIT = click.option("--split", help="[default: train, or the only one]")
SEED = click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="[default: 0, or the run's]")
CROP = click.option("--crop", type=click.IntRange(1), help="Pixels a side.  [default: 224, or the run's]")
COLOUR = click.option(
    "--colour", type=click.FloatRange(0, 1000), callback=a_number, help="Standard deviation of the alphas.  [default: 0.1, or the run's]"
)
SHUFFLE = click.option("--shuffle", type=click.Choice(["full", "block"]), help="[default: full, or the run's]")


def _opened(directory: str, run: Path | None, given: dict[str, Any]) -> Any:  # noqa: ANN401  (their modules are heavy)
    """Return the records, what gives the loader's config in an epoch, and the statistics.

    The config is the run's, or a loader's defaults, but for what is given; of a run, the colour is that of the schedule in the epoch.
    """
    from alexprep.pipeline import DataError, LoaderConfig, Records, read_manifest
    from alexprep.pipeline.shards.stats import stats_for

    manifest = read_manifest(directory)
    if run is not None and run.is_dir():
        from .runs import RunFolder

        start = RunFolder(run).start()
        if start.get("plan", manifest.plan) != manifest.plan:
            raise DataError(f"{directory} is not the data set that {run} was trained on; give that one: {start.get('data')}")
    changes = {"split": manifest.main_split, "views": "random"} | {name: value for name, value in given.items() if value is not None}
    with wrong_values():
        settings = None if run is None else resolve(None, run / "config.toml" if run.is_dir() else run, {}, ())
        config = LoaderConfig(**changes) if settings is None else settings.loader(**changes)
    schedule = None if settings is None else schedule_of(settings)

    def config_in(epoch: int) -> LoaderConfig:
        if schedule is not None and schedule.finished(epoch):
            raise DataError(f"{run} ends before epoch {epoch} (from 0)")
        coloured = schedule is None or given["colour"] is not None or schedule.phase(epoch).colour
        return config if coloured else replace(config, colour=0.0)

    return Records(manifest, config.split), config_in, stats_for(manifest, config.split)


@click.command()
@DIRECTORY
@click.option("--step", required=True, type=click.IntRange(0, 2**63 - 1), help="Since the start of the first epoch, as in metrics.jsonl.")
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
    from alexprep.pipeline.batches.sampler import Sampler
    from alexprep.pipeline.errors import printable
    from alexprep.pipeline.inspection.replay import receipt, sample, write_png

    records, config_in, stats = _opened(directory, run, given)
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


@click.command()
@DIRECTORY
@RUN
@SPLIT
@SEED
@CROP
@COLOUR
@click.option("--epoch", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1000), help="First epoch whose views are shown.")
@click.option("--records", "count", default=8, show_default=True, type=click.IntRange(1, 200), help="Rows of the sheet.")
@click.option("--views", "epochs", default=4, show_default=True, type=click.IntRange(1, 20), help="Views of each, one an epoch.")
@click.option("--out", default=Path("preview.html"), show_default=True, type=click.Path(path_type=Path), help="A .html with receipts, or a .png.")
@click.option("--check", is_flag=True, help="Test the order and the draws of this seed statistically instead; exit 1 if one looks wrong.")
def preview(directory: str, run: Path | None, epoch: int, count: int, epochs: int, out: Path, check: bool, **given: Any) -> None:  # noqa: ANN401
    """Draw a contact sheet of the augmentation: records with their crops, and the views that training sees.

    Of the shards in DIRECTORY (shards/, or $ALEXPREP_DATA).
    """
    from alexprep.pipeline.inspection.preview import page, rows, sheet
    from alexprep.pipeline.inspection.replay import write_png
    from alexprep.pipeline.storage.files import published

    if out.suffix.lower() not in (".html", ".png"):
        raise click.UsageError(f"--out must end in .html or .png, got {out}")
    records, config_in, stats = _opened(directory, run, given)
    config = config_in(epoch)
    if check:
        _check(config, epoch, records.manifest.config.size - config.crop)
        return
    made = rows(records, {number: config_in(number) for number in range(epoch, epoch + epochs)}, stats, count)
    if out.suffix.lower() == ".png":
        write_png(out, sheet(made))
    else:
        with published(out) as file:
            file.write(page(made, f"{directory}, {config.split}, seed {config.seed}").encode())
    click.echo(out)


def _check(config: Any, epoch: int, room: int) -> None:  # noqa: ANN401  (LoaderConfig, imported late)
    from alexprep.pipeline.inspection.randomness import BOUND, RECORDS, check_draws, check_order

    if room < 0:
        raise click.UsageError(f"crop {config.crop} does not fit into records of {config.crop + room} pixels")
    seed, full = config.seed, config.shuffle == "full"
    if not full:
        say(f"the order of --shuffle {config.shuffle} is not tested: it keeps neighbours together on purpose")
    findings = [*(check_order(seed, epoch, RECORDS) if full else ()), *check_draws(seed, epoch, RECORDS, room)]
    for found in findings:
        click.echo(f"{'ok' if found.good else 'WRONG':<6}{found.z:+6.2f}  {found.name}")
    bad = sum(not found.good for found in findings)
    say(f"{len(findings)} tests on {RECORDS:,} records; standard deviations from what is expected, at most {BOUND} of which are chance")
    if bad:
        raise click.ClickException(f"{bad} of {len(findings)} tests of seed {seed}, epoch {epoch} are beyond chance; please report it")
