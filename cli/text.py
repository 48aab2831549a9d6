"""Print lines for people, and JSON for programs."""

import json
from typing import Any

import click


def say(text: str) -> None:
    """Print a line for people on stderr; stdout is for results."""
    click.echo(text, err=True)


def print_json(value: Any) -> None:  # noqa: ANN401  (JSON is anything)
    """Print a result as one line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False))
