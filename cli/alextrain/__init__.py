"""`alextrain`: train AlexNet on shards, evaluate it, and report.

Each command has its own module.
"""

import click

from ..errors import Commands
from .ablate import ablate
from .describe import describe
from .evaluate import evaluate
from .export import export
from .features import features
from .figures import figures
from .predict import predict
from .report import report
from .run import run
from .watch import watch

__all__ = ["main"]


class TrainCommands(Commands):
    """Keeps its arguments, so that a command can start itself again as several ranks."""

    interrupted = "alextrain run --resume continues a run from its last checkpoint, if it has one"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, and keep a copy of them in ctx.obj."""
        ctx.obj = list(args)
        return super().parse_args(ctx, args)


@click.group(cls=TrainCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="alexprep")
def main() -> None:
    """Train AlexNet (2012) on shards that `alexprep shard` made.

    \b
      alextrain run --gpus 2                            # -> runs/1/
      alextrain eval --checkpoint runs/1 --crops 10
    """


for command in (run, describe, evaluate, features, predict, figures, report, watch, ablate, export):
    main.add_command(command)
