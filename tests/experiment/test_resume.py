"""Never a lost step: a run that was killed goes on to the same losses and weights."""

import random
import time

from ..support.commands import command
from ..support.runs import EACH_STEP, SMALL, losses, rows, same_weights, started, wait_for


def test_twenty_kills_at_random_steps_change_no_loss_and_no_weight(dozen, undisturbed, tmp_path):
    out, draw, kills = tmp_path / "run", random.Random(8), 0
    while kills < 20:
        resume = ["--resume"] if (out / "config.toml").exists() else [*SMALL, *EACH_STEP, "--epochs", 5]
        process = started("run", dozen, "--out", out, *resume)
        before = len(rows(out))
        target = min(before + draw.randrange(1, 5), 58)
        wait_for(lambda target=target: len(rows(out)) >= target, process)
        time.sleep(draw.random() * 0.05)
        process.kill()
        process.communicate()
        kills += 1
    done = command("alextrain", "run", dozen, "--out", out, "--resume")

    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(undisturbed)
    assert same_weights(out, undisturbed)
    assert [row["top1_error"] for row in rows(out, "eval")] == [row["top1_error"] for row in rows(undisturbed, "eval")]
