# ruff: noqa: INP001  (mkdocs.yml names this file; no package imports it)
"""For the Python reference: docstrings that list names in a column, each with its meaning beside it, become Markdown lists."""

import re
from typing import Any

import griffe

ITEM = re.compile(r"^(\w+) {2,}(\S.*)$")


def listed(text: str) -> str:
    """Return `text` with every run of `name    meaning` lines, and the lines that continue them, as a list."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        item = ITEM.match(line)
        if item:
            lines += [*([] if inside else [""]), f"- `{item[1]}`: {item[2]}"]
            inside = True
        elif inside and line.startswith("    "):
            lines.append(f"  {line.strip()}")
        else:
            inside = False
            lines.append(line)
    return "\n".join(lines)


class Listed(griffe.Extension):
    """Rewrites the docstrings of classes and functions when they are read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:  # noqa: ANN401  (griffe's own)
        """Take one."""
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)
