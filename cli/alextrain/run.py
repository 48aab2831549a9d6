"""`alextrain run`: train on the shards in a folder."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import wrong_values
from ..options import SHARDS, Grouped, cached, group, place_group
from ..progress import Bar
from ..run_options import RUN_SETTINGS, SETTINGS, SYNTHETIC, served_or_synthetic, settings_group
from ..text import say

if TYPE_CHECKING:
    from alexprep.experiment.config import RunConfig
    from alexprep.experiment.process.launch import Place
    from alexprep.experiment.run import Run
    from alexprep.experiment.run_folder import RunFolder


@click.command(cls=Grouped)
@SHARDS
@group(
    "Run",
    click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: the next runs/<n>]"),
    click.option("--resume", is_flag=True, help="Continuation of the run in --out (or the newest one) from its last checkpoint."),
    click.option(
        "--data",
        metavar="grpc://HOST:PORT[,HOST2:PORT]|synthetic",
        callback=served_or_synthetic,
        help="Servers of alexprep serve in place of DIRECTORY; or synthetic: noise from memory, which measures the trainer alone.",
    ),
    click.option("--model", metavar="PACKAGE:FUNCTION", help="Network of your own in place of AlexNet, made by FUNCTION(classes=...)."),
    click.option("--dry-run", is_flag=True, help="Trial of everything with one batch; nothing is left behind."),
)
@settings_group(*SETTINGS, *RUN_SETTINGS)
@place_group()
@group(
    "Process",
    click.option("--max-restarts", default=0, show_default=True, type=click.IntRange(0), help="Restarts of all ranks after one has failed."),
    click.option("--profile", is_flag=True, help="Profile of three steps in profile.json, for chrome://tracing."),
)
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
    """Train a network on shards.

    The shards are those in DIRECTORY (shards/, or $ALEXPREP_DATA). Started under torchrun it joins the other ranks; otherwise it
    starts them itself. The result does not depend on the number of ranks beyond float32 rounding. An interrupted run continues
    with --resume, to the same bits at the same number of ranks.
    """
    from alexprep.experiment.process.signals import REQUEUE
    from alexprep.experiment.synthetic import NOWHERE

    if dry_run and resume:
        raise click.UsageError("--dry-run tries a run that has not begun; it cannot be combined with --resume")
    resume = _resumes(out, resume=resume)
    settings = _settings(_stored(out) if resume else None, preset, config, options, assignments)
    source = NOWHERE if data == SYNTHETIC else Path(data) if data else directory
    place = _start_ranks(arguments, source, settings, (device, gpus, cpu_ranks), out, resume=resume, max_restarts=max_restarts)
    training = _train(source, settings, place, out, cached(cache, cache_size), resumed=resume, profile=profile, dry_run=dry_run)
    if training is None:
        return
    if training.stopped:
        raise SystemExit(REQUEUE)
    if training.ranks.first:
        _print_results(training.folder)


def _resumes(out: Path | None, *, resume: bool) -> bool:
    """Return whether to resume, because the user asks for it or a launcher restarted the process.

    DataError if a launcher may have restarted it, and the folder of the run is unknown.
    """
    from alexprep.experiment.process.signals import restarted
    from alexprep.experiment.run_folder import RunFolder
    from alexprep.pipeline import DataError

    if not restarted():
        return resume
    if out is None and not resume:
        raise DataError("under torchrun --max-restarts, or requeued by SLURM, the run to resume must be known: give --out")
    return resume or (out is not None and RunFolder(out).begun())


def _stored(out: Path | None) -> "RunConfig":
    from alexprep.experiment.run_folder import RunFolder

    return RunFolder.existing(out).settings()


def _settings(
    stored: "RunConfig | None", preset: str | None, config: Path | None, options: dict[str, Any], assignments: tuple[str, ...]
) -> "RunConfig":
    """Return the configuration of a new run, or of one that resumes from `stored`.

    UsageError for an invalid setting; DataError if the settings name a network of the user's that --model does not.
    """
    from alexprep.experiment.config import collect, resolve, resume
    from alexprep.pipeline import DataError

    with wrong_values():
        settings = resolve(preset, config, options, assignments) if stored is None else resume(stored, collect(preset, config, options, assignments))
        asked = collect(preset, None, options, assignments).get("model", "")
    own = settings.network.model
    if own != asked:  # a file alone must not decide which code runs
        raise DataError(f"these settings name the network {own}: give --model {own} too, if you trust its code")
    return settings


def _start_ranks(
    arguments: list[str],
    source: Path,
    settings: "RunConfig",
    wanted: tuple[str, int | None, int | None],
    out: Path | None,
    *,
    resume: bool,
    max_restarts: int,
) -> "Place":
    """Return the place of this process. If several ranks are wanted and no launcher has started them, start them, and exit with their exit code."""
    from alexprep.experiment.process.launch import choose_place, launch
    from alexprep.experiment.process.programs import again
    from alexprep.experiment.process.signals import REQUEUE, die_with_parent, stopped_before
    from alexprep.experiment.run_folder import RunFolder
    from alexprep.experiment.validate import check_data
    from alexprep.model.environment import launched

    with wrong_values():
        place = choose_place(*wanted)
        if place.note:
            say(place.note)
        check_data(source, settings, place.ranks)
    if (place.ranks > 1 or max_restarts) and not launched():
        if not resume and out is not None and RunFolder(out).begun():
            RunFolder.new(out)  # raises DataError with the reason
        if max_restarts and out is None:  # restarted ranks must know the folder
            arguments = [*arguments, "--out", str((RunFolder.existing(None) if resume else RunFolder.new(None)).directory)]
        code, message = launch(place.ranks, [*again("alextrain"), *arguments], max_restarts)
        if message:
            say(message)
        raise SystemExit(code)
    if stopped_before():
        raise SystemExit(REQUEUE)
    die_with_parent()
    return place


def _train(
    source: Path, settings: "RunConfig", place: "Place", out: Path | None, cache: dict[str, Any], *, resumed: bool, profile: bool, dry_run: bool
) -> "Run | None":
    """Train in this process, and return the Run; None after a dry run."""
    from alexprep.experiment.dry_run import try_out
    from alexprep.experiment.process.signals import Stop
    from alexprep.experiment.run import Run
    from alexprep.model.distributed import joined

    stop = Stop(say)
    # factor 1.2: the watchdog reports a hang before the collectives time out
    with stop.listening(), joined(place.device, 1.2 * settings.run.hang_seconds, say) as ranks:
        if dry_run:
            text = try_out(source, settings, ranks, cache, stop, follow)
            if ranks.first:
                say(text)
            return None
        training = Run(settings, source, out, ranks=ranks, cache=cache, stop=stop, resumed=resumed, profile=profile)
        follow(training)
    return training


def follow(training: "Run") -> None:
    """Train; rank 0 prints the events."""
    from alexprep.experiment.events import Finished, Notice, Started, StepLog, Stopped, Tick, Validation

    bar: Bar | None = None
    with _damage_shown():
        for event in training:
            if not training.ranks.first:
                continue
            match event:
                case Notice():
                    say(f"warning: {event.text}" if event.warning else event.text)
                case Started():
                    bar = Bar("train", training.total, "steps")
                case Tick() if bar:
                    bar.at(event.step)
                case StepLog() if bar:
                    bar.at(event.step, f"epoch {event.epoch}, loss {event.loss:.3f}, {event.images_per_s:.0f} images/s")
                case Validation():
                    errors = f"top-1 error {100 * event.top1_error:.2f} %, top-5 {100 * event.top5_error:.2f} %"
                    say(f"epoch {event.epoch}: {training.validated_on} {errors}, loss {event.loss:.4f}")
                case Stopped():
                    reason = event.reason or "a signal to another rank"
                    say(f"stopped by {reason} after step {event.step}, with a checkpoint; --resume continues")
            if bar and isinstance(event, Stopped | Finished):
                bar.close()


@contextmanager
def _damage_shown() -> Iterator[None]:
    """Print every warning of a damaged record, as one line on stderr."""
    from alexprep.pipeline import DamagedRecord

    with warnings.catch_warnings():
        warnings.simplefilter("always", DamagedRecord)
        show = warnings.showwarning
        warnings.showwarning = lambda message, category, *place: (
            say(f"warning: {message}") if category is DamagedRecord else show(message, category, *place)
        )
        yield


def _print_results(folder: "RunFolder") -> None:
    from alexprep.experiment.events import Measured
    from alexprep.experiment.reporting.report_data import REPORT
    from alexprep.model.events import of_kind

    for result in of_kind(folder.events(), Measured):
        views = "ten views" if result.views == 10 else "one view"
        click.echo(f"{views}: top-1 error {100 * result.top1_error:.2f} %, top-5 error {100 * result.top5_error:.2f} % of {result.count:,} images")
    report = folder.directory / REPORT
    click.echo(str(report if report.exists() else folder.directory))
