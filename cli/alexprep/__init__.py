"""`alexprep`: raw images to shards, and tools for shards. One module a command, imported when the command is called."""

import click

from ..errors import Commands

__all__ = ["main"]

COMMANDS = {  # name -> module, function, and the first line of its help
    "shard": ("shard", "shard", "Resize images to squares and pack them into shards."),
    "stats": ("stats", "stats", "Write the mean image and the colour statistics."),
    "inspect": ("inspect", "inspect", "Print what a source holds, before anything runs."),
    "finalize": ("finalize", "finalize", "Write the manifest after all parts of a job."),
    "verify": ("verify", "verify", "Check that shards are what was written."),
    "repair": ("repair", "repair", "Make damaged or missing shards again."),
    "diff": ("diff", "diff", "Print what is different between the data sets A and B."),
    "append": ("append", "append", "Add images to a finished data set."),
    "export": ("export", "export", "Write a data set in another shape."),
    "replay": ("replay", "replay", "Draw one sample of a training run again, with its receipt."),
    "preview": ("preview", "preview", "Draw records with the views that training sees."),
    "bench": ("bench", "bench", "Measure each stage of loading, and name the slowest one."),
    "serve": ("serve", "serve", "Serve shards to trainers over Arrow Flight."),
    "doctor": ("doctor", "doctor", "Print what this machine has and lacks."),
    "demo-data": ("demo", "demo_data", "Draw a small ImageNet-like folder with ten classes."),
    "demo": ("demo", "demo", "Run the whole job on drawn pictures."),
}


@click.group(cls=Commands, package=__name__, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="alexprep")
def main() -> None:
    """Turn raw ImageNet into shards of 256x256 records.

    \b
      alexprep shard --src imagenet/     # -> shards/
      alexprep stats --pca               # -> shards/stats.json
      alextrain run --gpus 2             # -> runs/1/
    """
