"""Options that cannot be are refused."""

import pytest
from alexprep.pipeline import Loader

from ..support.loaders import CROP


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1..1048576, got 0"),
        ({"split": "val", "batch_size": 2, "world_size": 3}, "at least 3, got 2"),
        ({"crop": 65}, "crop 65 does not fit into records of 64 pixels"),
        ({"batch_size": 10, "world_size": 3}, "divisible by world_size: 10 by 3"),
        ({"rank": 2, "world_size": 2}, r"rank must be 0..1 \(world_size is 2\), got 2"),
        ({"mean": "median"}, "mean must be one of pixel, center, channel, none"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 5.5}, "seed must be a whole number, got 5.5"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"batch_size": "100"}, "batch_size must be a whole number, got '100'"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"crop": 48.0}, "crop must be a whole number"),
        ({"threads": "2"}, "threads must be a whole number"),
        ({"divide": 1e-300}, "divide must be"),
        ({"colour": "0.1"}, "colour must be a number"),
        ({"colour": 1e300}, "colour must be"),
        ({"shuffle": True}, "shuffle must be one of full, block, none; got True"),
        ({"split": "val", "on_bad": "skip"}, "on_bad=skip would count a record twice in an evaluation"),
        ({"dtype": "float64"}, "dtype must be one of float32, bfloat16, float16"),
        ({"colour": float("nan")}, "colour must be"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(shards, options, message):
    with pytest.raises(ValueError, match=message):
        Loader(shards / "raw", **({"batch_size": 10, "crop": CROP} | options))
