"""Texts that commands print."""

import json
from typing import Any

import click


def say(text: str) -> None:
    """Print a line for people: on stderr, so that stdout is the result."""
    click.echo(text, err=True)


def print_json(value: Any) -> None:  # noqa: ANN401  (JSON is anything)
    """Print a result for machines."""
    click.echo(json.dumps(value, ensure_ascii=False))
