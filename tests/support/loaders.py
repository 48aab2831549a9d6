"""Every kind of loader of the 64-pixel records."""

import pytest
import torch

CROP = 48  # of the 64-pixel records


KINDS = {
    "random": {"split": "train", "batch_size": 10},
    "center": {"split": "val", "batch_size": 6},
    "ten": {"split": "val", "batch_size": 6, "views": "ten"},
}


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def each(test):
    """Run `test` with every kind of loader."""
    choices = {"encoding": ["jpeg", "raw"], "kind": list(KINDS), "mean": ["pixel", "center", "channel", "none"], "layout": ["CHW", "channels_last"]}
    for name, values in choices.items():
        test = pytest.mark.parametrize(name, values)(test)
    return test
