"""A loss that is no number."""

import json
import re

import torch

from ..support.commands import called
from ..support.runs import SMALL


def test_a_loss_that_is_no_number_leaves_the_state_before_it_and_its_batch(data, tmp_path):
    out = tmp_path / "run"
    done = called("alextrain", "run", data, *SMALL, "--lr", 1e30, "--out", out, "--set", "log_steps=1")
    found = re.search(r"the loss is (?:nan|inf) at step (\d+)", done.stderr)
    assert (done.returncode, found is None) == (1, False), done.stderr
    step = int(found[1]) - 1
    receipts = [json.loads(line) for line in (out / "diverged.jsonl").read_text().splitlines()]
    replayed = called("alexprep", "replay", data, "--run", out, "--step", step, "--index", 3, "--out", tmp_path / "a.png", "--json")

    assert torch.load(out / "diverged.pt", weights_only=True)["step"] == step
    assert len(receipts) == 16
    assert json.loads(replayed.stdout) == receipts[3] | {"png": str(tmp_path / "a.png")}
    assert f"alexprep replay {data} --run {out} --step {step} --index 0" in done.stderr
