"""`alexprep bench`: measure the stages of loading, and name the slowest."""

import os
import time
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from ..data_options import DIRECTORY
from ..errors import a_number, wrong_values
from ..options import JSON, Grouped
from ..text import print_json, say


@click.command(cls=Grouped)
@DIRECTORY
@click.option("--split", help="Split of the shards.  [default: train, or the first]")
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1), help="Records of a batch.")
@click.option("--crop", default=224, show_default=True, type=click.IntRange(1), help="Pixels a side of a view.")
@click.option("--layout", default="CHW", show_default=True, type=click.Choice(["CHW", "channels_last"]), help="Memory layout of a batch.")
@click.option(
    "--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "float16"]), help="Number format of the images."
)
@click.option("--shuffle", default="full", show_default=True, type=click.Choice(["full", "block"]), help="Order of the records.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads that make batches.  [default: one for each CPU of this process]")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "gpu"]), help="Device; auto: a GPU if there is one.")
@click.option("--run", type=click.Path(path_type=Path), help="Folder of a run, whose rate without waiting is the consumer's.")
@click.option(
    "--consumer",
    type=click.FloatRange(0, 1e9, min_open=True),
    metavar="IMAGES/S",
    callback=a_number,
    help="Rate of the consumer, if it is known.",
)
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.1, 600), callback=a_number, help="Seconds of each measurement.")
@click.option("--trace", type=click.Path(path_type=Path), help="Timeline of all threads to write, for chrome://tracing or ui.perfetto.dev.")
@JSON
def bench(
    directory: str,
    split: str | None,
    device: str,
    run: Path | None,
    consumer: float | None,
    seconds: float,
    trace: Path | None,
    as_json: bool,
    **options: Any,  # noqa: ANN401  (fields of LoaderConfig)
) -> None:
    """Measure each stage of loading, and name the slowest one.

    The shards are those in DIRECTORY (shards/, or $ALEXPREP_DATA). Storage, decoding and augmenting are measured alone, with all
    the loader's threads, then the loader as a whole. The consumer is not measured; its rate comes from --consumer or --run.
    """
    import torch
    from alexprep.pipeline import DataError, Loader, read_manifest
    from alexprep.pipeline.inspection.bottleneck import Setup, Stage, stages_of, verdict
    from alexprep.pipeline.storage.trace import Trace
    from alexprep.pipeline.storage.uri import is_served

    if trace is not None and (trace.is_dir() or not trace.parent.is_dir()):
        raise click.UsageError(f"cannot write --trace {trace}: it is a folder, or its parent does not exist")
    manifest = read_manifest(directory)
    if is_served(manifest.directory):
        raise DataError(f"{manifest.directory} is served from other machines; run bench where alexprep serve runs, with its folder")
    split = split or manifest.main_split
    recorded = Trace() if trace is not None else None
    on_gpu = device == "gpu" or (device == "auto" and torch.cuda.is_available())
    with wrong_values():
        loader = Loader(directory, split=split, views="random", device="gpu" if on_gpu else "cpu", trace=recorded, **options)
    measured = stages_of(loader.records, loader.recipe, loader.config, seconds)
    device_s = [Stage("host to device", copying(loader, seconds), "records as they are stored, pinned")] if on_gpu else []
    its_own = [Stage("the consumer", consumer or _consumer(run), "as given" if consumer else f"of {run}")] if run or consumer else []
    stages: list[Stage] = []
    for stage in chain(measured, device_s, its_own):
        stages.append(stage)
        if not as_json:
            _show(stage)
    all_of_it = Stage("loader", whole(loader, seconds), f"batches of {options['batch_size']}, {loader.config.threads} threads")
    if recorded is not None and trace is not None:
        recorded.write(trace)
        say(f"trace: {trace}")
    rates = {stage.name: stage.rate for stage in stages}
    stored = sum(shard.bytes for shard in loader.records.shards) / len(loader.records)
    setup = Setup(loader.config.threads or 1, len(os.sched_getaffinity(0)), loader.config.dtype, 3 * manifest.config.size**2 / stored)
    sentence = verdict(rates, all_of_it.rate, setup)
    if as_json:
        print_json({"stages": [asdict(stage) for stage in [*stages, all_of_it]], "verdict": sentence})
        return
    _show(all_of_it)
    click.echo(f"\n{sentence}")


def _show(stage: Any) -> None:  # noqa: ANN401  (a Stage)
    click.echo(f"{stage.name:<15}{stage.rate:>12,.0f} images/s   {stage.note}")


def whole(loader: Any, seconds: float) -> float:  # noqa: ANN401  (a Loader)
    """Return a loader's images/s from its second batch on: the first waits for start-up."""
    import torch

    images, start = 0, None
    while start is None or time.perf_counter() - start < seconds:
        for batch in loader:
            if start is None:
                start = time.perf_counter()
                continue
            images += len(batch.images)
            if time.perf_counter() - start > seconds:
                break
    if loader.config.device == "gpu":
        torch.cuda.synchronize()
    return images / (time.perf_counter() - start)


def copying(loader: Any, seconds: float) -> float:  # noqa: ANN401  (a Loader)
    """Return the records/s, in stored size, of copies from pinned memory to the device."""
    import torch

    each = sum(shard.bytes for shard in loader.records.shards) // len(loader.records)
    batch = torch.empty(each * loader.config.batch_size, dtype=torch.uint8).pin_memory()
    batch.cuda(non_blocking=True)
    torch.cuda.synchronize()
    copied, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        batch.cuda(non_blocking=True)
        torch.cuda.synchronize()
        copied += loader.config.batch_size
    return copied / (time.perf_counter() - start)


def _consumer(run: Path | None) -> float:
    """Return a run's images/s without its waits: the median of its last 50 logged steps."""
    import statistics

    from alexprep.experiment.run_folder import RunFolder
    from alexprep.model.events import StepLog, of_kind

    steps = of_kind(RunFolder.existing(run).events(), StepLog)
    usable = [step for step in steps if 0 < step.images_per_s < float("inf") and 0 <= step.wait_share <= 1]
    if not usable:
        raise click.ClickException(f"{run} has no step with a rate in its metrics.jsonl; give --consumer instead")
    return statistics.median(step.images_per_s / max(1 - step.wait_share, 0.01) for step in islice(reversed(usable), 50))
