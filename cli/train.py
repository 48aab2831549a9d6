"""`alextrain`: train AlexNet on shards, evaluate it, and report."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from .ablate import ablate
from .common import Commands, print_json, say, wrong_values
from .handover import export
from .measure import evaluate, features, predict
from .options import PRESET, SHARDS, SYNTHETIC, cache_options, cached, place_options, served_or_synthetic, settings_options
from .pages import figures, report, watch

HELP = {"help_option_names": ["-h", "--help"]}


class TrainCommands(Commands):
    """Remembers its arguments, so that it can start itself again as several ranks."""

    interrupted = "alextrain run --resume continues a run from its last checkpoint, if it has one"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep a copy in ctx.obj."""
        ctx.obj = list(args)
        return super().parse_args(ctx, args)


@click.group(cls=TrainCommands, context_settings=HELP)
@click.version_option(package_name="alexprep")
def main() -> None:
    """Train AlexNet (2012) on shards that `alexprep shard` made.

    \b
      alextrain run --gpus 2                            # -> runs/1/
      alextrain eval --checkpoint runs/1 --crops 10
    """


@main.command()
@SHARDS
@place_options
@cache_options
@PRESET
@settings_options
@click.option(
    "--parallel",
    type=click.Choice(["auto", "data", "towers", "hybrid"]),
    help="How several ranks share the network; auto: whatever sends the fewest bytes.  [default: auto]",
)
@click.option("--shuffle", type=click.Choice(["full", "block"]), help="block: read in large runs, for slow disks.  [default: full]")
@click.option("--on-bad", type=click.Choice(["raise", "skip"]), help="skip: a damaged record gives way to the next good one.  [default: raise]")
@click.option(
    "--data",
    metavar="grpc://HOST:PORT[,HOST2:PORT]|synthetic",
    callback=served_or_synthetic,
    help="Instead of DIRECTORY: servers of alexprep serve; or noise from memory, which measures the trainer alone.",
)
@click.option("--model", metavar="PACKAGE:FUNCTION", help="Train the network that FUNCTION(classes=...) returns, instead of AlexNet.")
@click.option("--deterministic/--no-deterministic", default=None, help="Only algorithms that give the same bits again.  [default: no]")
@click.option("--profile", is_flag=True, help="Write what torch does in three steps to profile.json, for chrome://tracing.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: the next runs/<n>]")
@click.option("--resume", is_flag=True, help="Continue the run in --out (or the newest one) from its last checkpoint.")
@click.option("--max-restarts", default=0, show_default=True, type=click.IntRange(0), help="How often to start all ranks again after one has failed.")
@click.option("--dry-run", is_flag=True, help="Go through everything with one batch, and leave nothing behind.")
@click.pass_obj
def run(
    arguments: list[str],
    /,
    directory: Path,
    device: str,
    gpus: int | None,
    cpu_ranks: int | None,
    cache: Path | None,
    cache_size: int,
    data: str | None,
    profile: bool,
    out: Path | None,
    resume: bool,
    max_restarts: int,
    dry_run: bool,
    assignments: tuple[str, ...],
    config: Path | None,
    preset: str | None,
    **options: Any,  # noqa: ANN401  (settings)
) -> None:
    """Train on the shards in DIRECTORY (shards/, or $ALEXPREP_DATA).

    Started under torchrun it joins the other ranks; otherwise it starts them itself. The result does not depend on the
    number of ranks beyond float32 rounding. Interrupted, it continues with --resume, at the same number of ranks to the
    same bits.
    """
    from alexprep.model.distributed import joined
    from alexprep.model.environment import launched
    from alexprep.pipeline import DataError

    from .building import check_data
    from .launch import choose_layout, launch
    from .runs import RunFolder
    from .safety import REQUEUE, Stop, die_with_parent, restarted, stopped_before
    from .synthetic import NOWHERE
    from .training import Run
    from .trial import try_out

    if dry_run and resume:
        raise click.UsageError("--dry-run tries a run that has not begun; it cannot be combined with --resume")
    if restarted():
        if out is None and not resume:
            raise DataError("under torchrun --max-restarts, or put back by SLURM, it must be known which run to go on with: give --out")
        resume = resume or (out is not None and RunFolder(out).begun())
    settings = _settings(RunFolder.existing(out).settings() if resume else None, preset, config, options, assignments)
    directory = NOWHERE if data == SYNTHETIC else Path(data) if data else directory
    layout = choose_layout(device, gpus, cpu_ranks)
    with wrong_values():
        check_data(directory, settings, layout.ranks)
    if (layout.ranks > 1 or max_restarts) and not launched():
        if not resume and out is not None and RunFolder(out).begun():
            RunFolder.new(out)  # says why not
        if max_restarts and out is None:  # ranks which are started again must know it
            arguments = [*arguments, "--out", str((RunFolder.existing(None) if resume else RunFolder.new(None)).directory)]
        raise SystemExit(launch(layout.ranks, arguments, max_restarts))
    if stopped_before():
        raise SystemExit(REQUEUE)
    die_with_parent()
    stop = Stop()
    with stop.listening(), joined(layout.device, 1.2 * settings.hang_seconds, say) as ranks:  # the watchdog speaks first
        if dry_run:
            try_out(directory, settings, ranks, cached(cache, cache_size), stop)
            return
        folder = RunFolder(Path(ranks.from_first(lambda: str((RunFolder.existing(out) if resume else RunFolder.new(out)).directory))))
        training = Run(directory, folder, settings, ranks, cached(cache, cache_size), profile=profile)
        with folder.held() if ranks.first else nullcontext():
            if resume:
                training.resume()
            if ranks.first:
                folder.write_settings(settings)
            training.train(stop)
    if training.trainer.stopped:
        raise SystemExit(REQUEUE)
    if ranks.first:
        _print_results(folder)


def _settings(stored: Any, preset: str | None, config: Path | None, options: dict[str, Any], assignments: tuple[str, ...]) -> Any:  # noqa: ANN401
    """Return the settings of a run (Settings, imported late), of one that goes on those `stored`; a usage error for what cannot be."""
    from alexprep.pipeline import DataError

    from .settings import collect, resolve, resume

    with wrong_values():
        settings = resolve(preset, config, options, assignments) if stored is None else resume(stored, collect(preset, config, options, assignments))
        asked = collect(preset, None, options, assignments).get("model", "")
    if settings.model != asked:  # a file's word is not enough to run code
        raise DataError(f"these settings are of the network {settings.model}: give --model {settings.model} too, if you trust what it runs")
    return settings


@main.command()
@PRESET
@click.option("--width", type=float, help="Factor on the kernels of every layer.  [default: 1.0]")
@click.option("--classes", default=1000, show_default=True, type=click.IntRange(2), help="Units of fc8.")
@click.option("--crop", type=int, help="Pixels a side.  [default: 224; caffe 227]")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting: exchange=false, norm=false, sixth=true, ...")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def describe(preset: str | None, classes: int, assignments: tuple[str, ...], as_json: bool, **options: Any) -> None:  # noqa: ANN401  (settings)
    """Print a network's layers: shapes, kernels, parameters, multiply-adds, bytes of activation, of all and of each tower."""
    import torch

    from .building import builder
    from .describing import table, to_json
    from .settings import resolve

    with wrong_values():
        settings = resolve(preset, None, options, assignments)
        if not settings.alexnet:
            raise click.UsageError("describe is for the AlexNets of this project")
        with torch.device("meta"):
            model = builder(settings, classes)()
    if as_json:
        print_json(to_json(model, settings.crop))
    else:
        click.echo(table(model, settings.crop))


def _print_results(folder: Any) -> None:  # noqa: ANN401  (RunFolder, imported late)
    for row in folder.rows():
        if row["event"] == "result":
            views = "ten views" if row["views"] == 10 else "one view"
            click.echo(
                f"{views}: top-1 error {100 * row['top1_error']:.2f} %, top-5 error {100 * row['top5_error']:.2f} % of {row['count']:,} images"
            )
    report = folder.directory / "report.html"
    click.echo(str(report if report.exists() else folder.directory))


for command in (evaluate, features, predict, figures, report, watch, ablate, export):
    main.add_command(command)
