"""What cannot be trained is said before anything is made."""

from importlib.util import find_spec

import pytest

from ..support.commands import called
from ..support.runs import NETWORK, SMALL


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "mine"], 2, "model must be package:function"),
        (["--model", "nowhere:tiny"], 1, "--model nowhere:tiny: No module named 'nowhere'"),
        (["--model", "mine:huge"], 1, "has no attribute 'huge'"),
        (["--model", "mine:number"], 1, "returned a int instead of a torch.nn.Module"),
        (["--model", "mine:few"], 1, "gives [2, 1] for two images instead of [2,2]"),
        (["--model", "os:getcwd"], 1, "--model os:getcwd: "),
        (["--model", "mine:text"], 1, "does not take images of [2,3,64,64]"),
        (["--epochs", 10**400], 2, "epochs must be 1..1,000,000"),
        (["--set", "eval_batch_size=99999999999"], 2, "eval_batch_size must be"),
        (["--set", "batch_size=0"], 2, "batch_size must be 1.."),
        (["--set", "norm=1"], 2, "norm must be true or false, got 1"),
        (["--model", "mine:tiny", "--parallel", "towers"], 1, "train any other network with --parallel data"),
        (["--set", "loggers=carrierpigeon"], 2, "loggers must be among tensorboard, wandb, trackio; got carrierpigeon"),
        (["--set", "loggers=trackio"], 1, "pip install trackio"),
        (["--compile", "--parallel", "towers", "--cpu-ranks", 2], 1, "--compile cannot compile the exchanges between ranks of --parallel towers"),
        (["--set", "hang_seconds=1e11"], 2, "hang_seconds must be"),
        (["--set", "ema=1.5"], 2, "ema must be at least 0 and below 1"),
        (["--set", "accumulate=17"], 2, "accumulate must be at most the batch size, 16"),
        (["--set", "precision=float8"], 2, "precision must be one of float32, bfloat16"),
        (["--parallel", "towers", "--cpu-ranks", 3, "--batch-size", 18], 1, "two towers need an even number of ranks, not 3"),
        (["--parallel", "towers", "--cpu-ranks", 2, "--preset", "owt"], 1, "this network has one tower"),
        (["--set", "exchange=false", "--preset", "owt"], 2, "owt has one tower"),
        (["--cpu-ranks", 2, "--batch-size", 17, "--parallel", "data"], 2, "17 by 2"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_before_the_first_step(few, tmp_path, arguments, code, message):
    if "trackio" in str(arguments) and find_spec("trackio"):
        pytest.skip("it is installed here")
    (tmp_path / "mine.py").write_text(NETWORK)
    done = called("alextrain", "run", few, *SMALL, *arguments, "--out", tmp_path / "run", cwd=tmp_path)

    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stderr
    assert not (tmp_path / "run" / "last.pt").exists()
