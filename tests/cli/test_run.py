"""`alextrain run` as one rank of several."""

import os
import re
import signal

import pytest
from alexprep.model.environment import launched
from alexprep.model.errors import TrainingError

from ..support.commands import begun, called

ALONE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.mark.process
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_a_rank_that_waits_for_others_says_so_and_hears_signals(trained_on, tmp_path, number, code):
    port = free_port()
    arguments = ("alextrain", "run", trained_on, "--crop", "64", "--batch-size", "8", "--steps", "2", "--out", tmp_path / "run")
    process = begun(*arguments, env=os.environ | ALONE | {"MASTER_PORT": port})
    said = process.stderr.readline()
    process.send_signal(number)
    _, rest = process.communicate(timeout=30)

    assert f"rank 0 waits for 1 other rank at 127.0.0.1:{port}" in said
    assert process.returncode == code
    assert "Traceback" not in rest


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "0"}, "RANK is set but WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not"),
        (ALONE, "MASTER_PORT is not"),
        (ALONE | {"MASTER_PORT": "1", "RANK": "2"}, "RANK is 2 and WORLD_SIZE is 2"),
        (ALONE | {"MASTER_PORT": "x"}, "MASTER_PORT is 'x': expected a whole number"),
        (ALONE | {"MASTER_PORT": "99999"}, "a port is 1 to 65535"),
    ],
    ids=range(5),
)
def test_what_a_launcher_left_out_is_named(monkeypatch, trained_on, environment, said):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert launched() is None
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(TrainingError, match=re.escape(said)):
        launched()
    run = called("alextrain", "run", trained_on, "--crop", "64", "--batch-size", "8", "--steps", "1")
    assert (run.returncode, len(run.stderr.splitlines())) == (1, 1)
    assert said in run.stderr
