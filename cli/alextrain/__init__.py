"""`alextrain`: train AlexNet on shards, evaluate it, and report. One module a command, imported when the command is called."""

import click

from ..errors import Commands

__all__ = ["main"]

COMMANDS = {  # name -> module, function, and the first line of its help
    "run": ("run", "run", "Train a network on shards."),
    "describe": ("describe", "describe", "Print the layers of a network, with their cost."),
    "eval": ("evaluate", "evaluate", "Measure a checkpoint, or several together."),
    "features": ("features", "features", "Write the last hidden vectors of a split as parquet."),
    "predict": ("predict", "predict", "Classify images, and print the five best classes."),
    "figures": ("figures", "figures", "Draw the paper's figures 3 and 4 of a run."),
    "report": ("report", "report", "Write the page of a run again, or one page for several runs."),
    "watch": ("watch", "watch", "Serve the page of runs while they train."),
    "ablate": ("ablate", "ablate", "Train a grid of settings and seeds, and print its table."),
    "export": ("export", "export", "Write the network of a run for other programs."),
}


class TrainCommands(Commands):
    """Keeps its arguments, so that a command can start itself again as several ranks."""

    interrupted = "alextrain run --resume continues a run from its last checkpoint, if it has one"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, and keep a copy of them in ctx.obj."""
        ctx.obj = list(args)
        return super().parse_args(ctx, args)


@click.group(cls=TrainCommands, package=__name__, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="alexprep")
def main() -> None:
    """Train AlexNet (2012) on shards that `alexprep shard` made.

    \b
      alextrain run --gpus 2                            # -> runs/1/
      alextrain eval --checkpoint runs/1 --crops 10
    """
