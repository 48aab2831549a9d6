"""Options shared by several commands, and groups of options in help texts."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from alexprep.pipeline.config import Hint

Decorator = Callable[[Any], Any]
SHARDS = click.argument("directory", default="shards", type=click.Path(path_type=Path), envvar="ALEXPREP_DATA")
JSON = click.option("--json", "as_json", is_flag=True, help="JSON on stdout in place of text.")
CHECKPOINT = click.option(
    "--checkpoint", required=True, type=click.Path(path_type=Path), help="Folder of a run (its last.pt is taken), or a .pt file."
)
DATA = click.option(
    "--data", default="shards", show_default=True, type=click.Path(path_type=Path), envvar="ALEXPREP_DATA", show_envvar=True, help="Folder of shards."
)
SPLIT = click.option("--split", help="Split of the shards.  [default: val, or test where there is no val]")
RUNS = click.argument("directories", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
RUN_DATA = click.option("--data", type=click.Path(path_type=Path), help="Folder of shards.  [default: where the run had them]")
USER_NETWORK = click.option("--model", default="", metavar="PACKAGE:FUNCTION", help="Function that made the network, if it is your own.")
DEVICE = click.option(
    "--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "gpu"]), help="Device; auto: a GPU if there is one."
)


class Grouped(click.Command):
    """A command whose help shows its options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group, in the order of definition. Options without a group come last, as "Options"."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "group", "Options"), []).append(record)
        for title in sorted(sections, key=lambda title: title == "Options"):
            with formatter.section(title):
                formatter.write_dl(sections[title])


def group(title: str, *options: Decorator) -> Decorator:
    """Return a decorator that adds options to a `Grouped` command under a title."""

    def decorate(command: Any) -> Any:  # noqa: ANN401  (click decorates anything)
        before = len(getattr(command, "__click_params__", ()))
        for option in reversed(options):
            command = option(command)
        for parameter in command.__click_params__[before:]:
            parameter.group = title
        return command

    return decorate


def option_of(name: str, hint: Hint, note: str = "", **attributes: Any) -> Decorator:  # noqa: ANN401  (click's)
    """Return the click option of an annotated field. Name, type, choices and help text come from the field; `note` is appended to the help text."""
    word, text = name.replace("_", "-"), f"{hint.meaning}.{note}"
    if hint.kind is bool:
        return click.option(f"--{word}/--no-{word}", help=text, **attributes)
    return click.option(f"--{word}", type=click.Choice(hint.choices) if hint.choices else hint.kind, help=text, **attributes)


def place_group() -> Decorator:
    """Return a decorator that adds the options for device, ranks and shard cache."""
    return group(
        "Machine",
        click.option("--gpus", type=click.IntRange(1, 64), help="GPUs of this machine, one process each, over NCCL."),
        click.option("--cpu-ranks", type=click.IntRange(1, 64), help="Processes on the CPU, over gloo."),
        DEVICE,
        *CACHE,
    )


def size_in_bytes(_ctx: click.Context, _option: click.Parameter, value: str) -> int:
    """Return the bytes of a size such as 200G (1 G is 1000**3 bytes)."""
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)B?", value.strip().upper())
    if match is None or int(match[1]) == 0:
        raise click.BadParameter(f"a size is a number of bytes, or a number with a unit (500M, 200G, 1T); got {value}")
    return int(match[1]) * 1000 ** " KMGT".index(match[2] or " ")


CACHE = (
    click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="Local folder for the shards of an object store (s3://...)."),
    click.option("--cache-size", default="100G", show_default=True, metavar="SIZE", callback=size_in_bytes, help="Size of that folder, at most."),
)


def cache_options(command: Any) -> Any:  # noqa: ANN401  (click decorates anything)
    """Add the options for the cache of shards in an object store."""
    for option in reversed(CACHE):
        command = option(command)
    return command


def cached(cache: Path | None, size: int) -> dict[str, Any]:
    """Return LoaderConfig's keyword arguments for the values of `cache_options`."""
    return {} if cache is None else {"cache": str(cache), "cache_size": size}


def check_place(path: Path | None, ending: str) -> None:
    """Check before the work that its result can be written to `path`. UsageError if the name has another ending, or its folder does not exist."""
    if path is None:
        return
    if path.suffix != ending:
        raise click.UsageError(f"{path} must end in {ending}, the format that is written")
    if not path.parent.is_dir():
        raise click.UsageError(f"there is no folder {path.parent} for {path.name}")
