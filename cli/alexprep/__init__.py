"""`alexprep`: pack raw images into shards, and inspect, check and serve them.

Each command has its own module. Starting the program does not import torch.
"""

import click

from ..errors import Commands
from .append import append
from .bench import bench
from .demo import demo, demo_data
from .diff import diff
from .doctor import doctor
from .export import export
from .finalize import finalize
from .inspect import inspect
from .preview import preview
from .repair import repair
from .replay import replay
from .serve import serve
from .shard import shard
from .stats import stats
from .verify import verify

__all__ = ["main"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="alexprep")
def main() -> None:
    """Turn raw ImageNet into shards of 256x256 records.

    \b
      alexprep shard --src imagenet/     # -> shards/
      alexprep stats --pca               # -> shards/stats.json
      alextrain run --gpus 2             # -> runs/1/
    """


for command in (shard, stats, inspect, finalize, verify, repair, diff, append, export, replay, preview, bench, serve, doctor, demo_data, demo):
    main.add_command(command)
