"""`alexprep preview`: draw a sheet of augmented samples, or test order and draws statistically."""

from pathlib import Path
from typing import Any

import click

from ..data_options import DIRECTORY
from ..options import Grouped
from ..sample_options import COLOUR, CROP, RUN, SEED, SPLIT, opened
from ..text import say


@click.command(cls=Grouped)
@DIRECTORY
@RUN
@SPLIT
@SEED
@CROP
@COLOUR
@click.option("--epoch", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1000), help="First epoch whose views are shown.")
@click.option("--records", "count", default=8, show_default=True, type=click.IntRange(1, 200), help="Rows of the sheet.")
@click.option("--views", "epochs", default=4, show_default=True, type=click.IntRange(1, 20), help="Views of each record, one per epoch.")
@click.option(
    "--out", default=Path("preview.html"), show_default=True, type=click.Path(path_type=Path), help="File to write: .html with receipts, or .png."
)
@click.option("--check", is_flag=True, help="Statistical tests in place of a sheet; exit code 1 if one fails.")
def preview(directory: str, run: Path | None, epoch: int, count: int, epochs: int, out: Path, check: bool, **given: Any) -> None:  # noqa: ANN401
    """Draw records with the views that training sees.

    The shards are those in DIRECTORY (shards/, or $ALEXPREP_DATA).
    """
    from alexprep.pipeline.inspection.preview import page, rows, sheet
    from alexprep.pipeline.inspection.replay import write_png
    from alexprep.pipeline.storage.files import published

    if out.suffix.lower() not in (".html", ".png"):
        raise click.UsageError(f"--out must end in .html or .png, got {out}")
    records, config_in, stats = opened(directory, run, given)
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
    say(f"{len(findings)} tests on {RECORDS:,} records; deviations from the expected value in standard deviations; up to {BOUND} is chance")
    if bad:
        raise click.ClickException(f"{bad} of {len(findings)} tests of seed {seed}, epoch {epoch} are beyond chance; please report it")
