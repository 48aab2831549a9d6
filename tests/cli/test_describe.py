"""`alextrain describe`."""

import json
import re

from ..support.commands import called


def test_describe_prints_the_layers_of_the_paper():
    told = called("alextrain", "describe", "--preset", "paper").stdout
    found = json.loads(called("alextrain", "describe", "--json").stdout)
    conv3 = next(line.split() for line in told.splitlines() if line.startswith("conv3"))

    assert conv3 == ["conv3", "3x3x256", "/", "1", "384x13x13", "192x13x13", "885,120", "149,520,384", "259,584"]
    assert re.search(r"^all\s+60,965,224\s+724,406,816", told, re.MULTILINE)
    assert (found["parameters"], found["multiply_adds"], found["towers"]) == (60_965_224, 724_406_816, 2)
    assert [row["layer"] for row in found["layers"]][:4] == ["conv1", "norm1", "conv2", "norm2"]
