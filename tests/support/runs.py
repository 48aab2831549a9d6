"""Runs of tiny networks, and what they leave in their folders."""

import json
import time

import torch
from alexprep.experiment.checkpoint import load_checkpoint

from .commands import begun, called

SMALL = ["--width", 0.0625, "--crop", 64, "--batch-size", 16, "--seed", 4, "--set", "log_steps=1"]
EACH_STEP = ["--set", "checkpoint_steps=1"]
NETWORK = """
from torch import nn

def tiny(classes):
    head = nn.Sequential(nn.Dropout(), nn.Linear(8, classes))
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)

def number(classes):
    return classes

def few(classes):
    return tiny(classes=1)

def text(classes):
    return nn.Linear(7, classes)
"""


def run(data, out, *arguments, by=called, **options):
    """Train for an epoch, in this process or (`by=command`) in one of its own."""
    done = by("alextrain", "run", data, *SMALL, "--epochs", 1, "--out", out, *arguments, **options)
    assert done.returncode == 0, done.stderr
    return done


def started(*arguments, **options):
    """An alextrain that is waited for later."""
    return begun("alextrain", *arguments, **options)


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rows(out, event="step"):
    path = out / "metrics.jsonl"
    return [row for row in map(json.loads, path.read_text().splitlines()) if row["event"] == event] if path.exists() else []


def losses(out):
    return {row["step"]: row["loss"] for row in rows(out)}


def without_times(step_rows):
    return [{name: value for name, value in row.items() if name not in ("images_per_s", "wait_share", "batches_ready")} for row in step_rows]


def weights(out):
    return load_checkpoint(out)["model"]


def same_weights(a, b):
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())
