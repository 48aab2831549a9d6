"""A virtual environment for each peer, installed once by pip, so that our pinned versions do not slow any of them."""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

TORCH = ("torch==2.13.0",)  # the version of requirements.lock
VISION = ("torch==2.14.1", "torchvision==0.29.1")  # Streaming and timm import torchvision, which works with its own torch only
VENVS = Path("~/.cache/alexprep-peers")
QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "LITDATA_DISABLE_VERSION_CHECK": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "PYTHONNOUSERSITE": "1",
}


class Environment(NamedTuple):
    packages: tuple[str, ...]
    torch: tuple[str, ...]
    first: tuple[str, ...] = ()  # needed to build `packages`


ENVIRONMENTS = {
    "ffcv": Environment(("ffcv==1.0.2", "pillow", "opencv-python"), TORCH, ("setuptools", "wheel", "numpy")),
    "litdata": Environment(("litdata", "pillow"), TORCH),
    "mds": Environment(("mosaicml-streaming", "pillow"), VISION),
    "spdl": Environment(("spdl",), TORCH),
    "timm": Environment(("timm", "pillow"), VISION),
    "torchvision": Environment(("pillow",), VISION),
    "wds": Environment(("webdataset", "pillow"), TORCH),
}


@dataclass(frozen=True)
class Peer:
    name: str
    script: str  # ENVIRONMENT_what.py

    @property
    def folder(self) -> str:
        return self.script.partition("_")[0]

    @property
    def steps(self) -> list[list[str]]:
        """Return the arguments of each call of pip. Torch comes first and is named again, so that no package changes its version."""
        packages, torch, first = ENVIRONMENTS[self.folder]
        options = ["--no-build-isolation"] if first else []
        return [list(step) for step in (first, torch) if step] + [[*options, *packages, *torch]]

    @property
    def reported(self) -> list[str]:
        packages, torch, _ = ENVIRONMENTS[self.folder]
        return [package.partition("==")[0] for package in packages + torch]


def options(description: str | None, src: str) -> argparse.ArgumentParser:
    """Return the options that every comparison with the peers has; `src` says what --src takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", type=Path, help=f"{src}; default: drawn pictures")
    parser.add_argument("--copies", type=int, default=4, help="copies of each file (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="measuring rounds (default: 3)")
    parser.add_argument("--venvs", type=Path, default=VENVS, help="the peers' environments (default: %(default)s)")
    parser.add_argument("--install", action="store_true", help="make the environments that are missing, and stop")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    return parser


def link(files: Iterable[Path], src: Path, out: Path, copies: int) -> None:
    """Put this many copies of every file of `src` into `out`."""
    for path in files:
        for copy in range(copies):
            target = out / path.parent.relative_to(src) / f"{copy}_{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(path)
            except OSError:  # another file system, or another owner
                shutil.copyfile(path, target)


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
