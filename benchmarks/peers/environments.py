"""A virtual environment for each peer, so that none is crippled by our pins; installed once, by pip."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TORCH = ("torch==2.13.0",)  # that of requirements.lock


@dataclass(frozen=True)
class Peer:
    name: str
    script: str
    packages: tuple[str, ...]
    torch: tuple[str, ...] = ()
    first: tuple[str, ...] = ()  # what the build of `packages` needs

    @property
    def folder(self) -> str:
        return self.script.partition("_")[0]

    @property
    def steps(self) -> list[list[str]]:
        """The arguments of pip, call by call. Torch comes first and is named again, so that nothing chooses another one."""
        options = ["--no-build-isolation"] if self.first else []
        return [list(step) for step in (self.first, self.torch) if step] + [[*options, *self.packages, *self.torch]]

    @property
    def reported(self) -> list[str]:
        return [package.partition("==")[0] for package in self.packages + self.torch]


VISION = ("torch==2.14.1", "torchvision==0.29.1")  # Streaming imports torchvision, which works with its own torch only


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def install(peer: Peer, venv: Path) -> str:
    """Make the environment of `peer`, unless it is there; return what went wrong."""
    marker = venv / "complete.json"
    if marker.exists() and json.loads(marker.read_text()) == peer.steps:
        return ""
    print(f"installing {peer.name} into {venv}", flush=True)
    commands: list[list[str | Path]] = [[sys.executable, "-m", "venv", "--clear", venv]]
    commands += [[venv / "bin/python", "-m", "pip", "install", "--quiet", *step] for step in peer.steps]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            (venv / "failure.txt").write_text(done.stdout + done.stderr)
            return missing(venv)
    marker.write_text(json.dumps(peer.steps))
    return ""


def reason(stderr: str) -> str:
    """Return the first error that a failed pip names; "subprocess-exited-with-error", its headline, names none."""
    errors = (line.strip() for line in stderr.splitlines() if "error: " in line.lower() and "subprocess-exited" not in line)
    return next(errors, last_line(stderr))


def missing(venv: Path) -> str:
    if (venv / "complete.json").exists():
        return ""
    failure = venv / "failure.txt"
    if failure.exists():
        return f"not installed: {reason(failure.read_text())} (all of it: {failure})"
    return f"not installed: no {venv}; run with --install"


def versions_in(python: Path, packages: Sequence[str]) -> dict[str, str]:
    code = "import json, platform, sys; from importlib.metadata import version as v; "
    code += "print(json.dumps({'python': platform.python_version()} | {name: v(name) for name in sys.argv[1:]}))"
    return dict(json.loads(subprocess.run([python, "-c", code, *packages], check=True, capture_output=True, text=True).stdout))


def install_all(peers: Sequence[Peer], venvs: Path) -> int:
    """Return how many could not be installed."""
    venvs.mkdir(parents=True, exist_ok=True)
    failures = {peer.name: install(peer, venvs / peer.folder) for peer in peers}
    for name, failure in failures.items():
        print(f"{name}: {failure or 'installed'}")
    return sum(map(bool, failures.values()))
