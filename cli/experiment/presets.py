"""Recipes of the presets: how the paper's text, the authors' code and their successors differ.

Sources: the paper and the 2012 code (sections 1, 2 and 4 of the notes in docs/reproducing.md);
bvlc_alexnet for "caffe".
"""

from typing import Any

SOURCE = {"mean": "center", "divide": 1.1}
CIFAR = {"mean": "pixel", "divide": 1.0, "colour": 0.0, "crop": 32, "norm": False, "schedule": "fixed", "epochs": 60, "drops": "0.75,0.9"}

# preset -> settings by name; all other settings have the defaults of their fields
RECIPES: dict[str, dict[str, Any]] = {
    "source": SOURCE,
    "paper": {"mean": "pixel", "divide": 1.0, "schedule": "plateau", "epochs": 90},
    "one-gpu": SOURCE,
    # crops of 227 pixels, the mean image subtracted, batches of 256, 450,000 steps with drops at
    # 100,000, 200,000, 300,000 and 400,000
    "caffe": {
        "mean": "pixel",
        "divide": 1.0,
        "colour": 0.0,
        "crop": 227,
        "batch_size": 256,
        "schedule": "fixed",
        "epochs": 90,
        "drops": "0.2222,0.4444,0.6667,0.8889",
    },
    "owt": {"mean": "channel", "divide": 1.0, "colour": 0.0, "schedule": "fixed", "epochs": 90, "drops": "0.3333,0.6667"},
    # the four-layer nets of sections 3.1 and 3.3, on CIFAR-10's 32 pixels; the paper says no more
    # about them (model/networks/cifar.py)
    "cifar": CIFAR,
    "cifar-2012": CIFAR,
}
