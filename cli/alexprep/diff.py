"""`alexprep diff`: compare two data sets."""

import click

from ..options import JSON, Grouped
from ..text import print_json


@click.command(cls=Grouped)
@click.argument("a")
@click.argument("b")
@JSON
def diff(a: str, b: str, as_json: bool) -> None:
    """Print what is different between the data sets A and B.

    Records that were added, removed, relabelled or re-encoded; exit code 1 if there are any. Records are matched by key. Re-encoded means
    that the stored image has other bytes.
    """
    from alexprep.pipeline.preparation.diff import difference
    from alexprep.pipeline.shards.manifest import read_manifest

    first, second = read_manifest(a), read_manifest(b)
    splits = list(dict.fromkeys([*first.splits, *second.splits]))
    found = {split: difference(first, second, split) for split in splits}
    parameters = {name: (getattr(first.config, name), getattr(second.config, name)) for name in vars(first.config)}
    changed = {name: values for name, values in parameters.items() if values[0] != values[1]}
    if as_json:
        print_json({"splits": {split: value._asdict() for split, value in found.items()}, "parameters": changed})
    else:
        for name, (before, after) in changed.items():
            click.echo(f"{name}: {before} -> {after}")
        for split, value in found.items():
            click.echo(
                f"{split}: {len(value.added)} added, {len(value.removed)} removed, {len(value.relabelled)} relabelled, "
                f"{len(value.reencoded)} re-encoded, {value.same} the same"
            )
            _examples("+", value.added)
            _examples("-", value.removed)
            _examples("label", [f"{key}: {before} -> {after}" for key, before, after in value.relabelled])
            _examples("bytes", value.reencoded)
    if changed or any(value[:4] != ([], [], [], []) for value in found.values()):
        raise click.exceptions.Exit(1)


def _examples(mark: str, items: list[str], count: int = 10) -> None:
    for item in items[:count]:
        click.echo(f"  {mark} {item}")
    if len(items) > count:
        click.echo(f"  {mark} ... {len(items) - count} more (--json has all)")
