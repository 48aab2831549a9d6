"""Options of `alexprep replay` and `alexprep preview` that select the samples to draw."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .errors import a_number, wrong_values

RUN = click.option("--run", type=click.Path(path_type=Path), help="Folder of a run, whose seed, batch size, crop and so on hold.")
SPLIT = click.option("--split", help="Split of the shards.  [default: train, or the only one]")
SEED = click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Seed of order and draws.  [default: 0, or the run's]")
CROP = click.option("--crop", type=click.IntRange(1), help="Pixels a side of a view.  [default: 224, or the run's]")
COLOUR = click.option(
    "--colour", type=click.FloatRange(0, 1000), callback=a_number, help="Standard deviation of the PCA colour alphas.  [default: 0.1, or the run's]"
)
SHUFFLE = click.option("--shuffle", type=click.Choice(["full", "block"]), help="Order of the records.  [default: full, or the run's]")


def opened(directory: str, run: Path | None, given: dict[str, Any]) -> Any:  # noqa: ANN401  (their modules are heavy)
    """Return the records, a function that returns the LoaderConfig of an epoch, and the statistics.

    The config is that of `run`, or a loader's defaults; values in `given` replace its fields. In an
    epoch in which the run's schedule has no colour, colour is 0 unless it is given.
    """
    from alexprep.experiment.config import resolve, schedule_of
    from alexprep.pipeline import DataError, LoaderConfig, Records, read_manifest
    from alexprep.pipeline.shards.stats import stats_for

    manifest = read_manifest(directory)
    if run is not None and run.is_dir():
        from alexprep.experiment.run_folder import RunFolder

        start = RunFolder(run).start()
        if start is not None and start.plan not in (None, manifest.plan):
            raise DataError(f"{directory} is not the data set that {run} was trained on; give that one: {start.data}")
    changes = {"split": manifest.main_split, "views": "random"} | {name: value for name, value in given.items() if value is not None}
    with wrong_values():
        settings = None if run is None else resolve(None, run / "config.toml" if run.is_dir() else run, {}, ())
        config = LoaderConfig(**changes) if settings is None else settings.loader(**changes)
    schedule = None if settings is None else schedule_of(settings)

    def config_in(epoch: int) -> LoaderConfig:
        if schedule is not None and schedule.finished(epoch):
            raise DataError(f"{run} ends before epoch {epoch} (the first is 0)")
        coloured = schedule is None or given["colour"] is not None or schedule.phase(epoch).colour
        return config if coloured else replace(config, colour=0.0)

    return Records(manifest, config.split), config_in, stats_for(manifest, config.split)
