"""The same bits, whatever becomes of the servers; and a program that ends when it wants to."""

import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from alexprep.pipeline import DataError, Loader

from ...support.serving import CROP, the_same
from ...support.shards import stream

pytestmark = pytest.mark.process


def test_servers_killed_at_random_lose_nothing(data, server):
    """Of three, one after another is killed with SIGKILL and started again, all through an epoch."""
    folder, _ = data["jpeg"]
    servers = [server(folder) for _ in range(3)]
    where = "grpc://" + ",".join(one.location.removeprefix("grpc://") for one in servers)
    expected = stream(Loader(folder, batch_size=4, crop=CROP), 60)
    loader = Loader(where, batch_size=4, crop=CROP, form="views")
    chance = random.Random(0)
    for step, batch in enumerate(stream_slowly(loader, 60)):
        assert the_same(batch, expected[step]), step
        if step % 12 == 5:
            victim = chance.randrange(3)
            port = servers[victim].port
            servers[victim].stop(signal.SIGKILL)
        if step % 12 == 11:
            servers[victim] = server(folder, port=port)


def stream_slowly(loader, steps):
    for batch in stream(loader, steps):
        time.sleep(0.01)
        yield batch


def test_a_server_that_hangs_is_passed_over(data, server):
    """SIGSTOP: it takes connections and says nothing."""
    folder, _ = data["jpeg"]
    hung, good = server(folder), server(folder)
    loader = Loader(f"{hung.location},{good.location}", batch_size=4, crop=CROP)
    expected = stream(Loader(folder, batch_size=4, crop=CROP), 40)
    got = stream(loader, 4)
    hung.process.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    got += stream(loader, 36)

    assert all(the_same(*pair) for pair in zip(got, expected, strict=True))
    assert time.monotonic() - start < 30  # not the deadline of every one of its answers


def test_servers_may_all_be_away_for_a_while(data, server):
    folder, _ = data["jpeg"]
    one = server(folder)
    loader = Loader(one.location, batch_size=8, crop=CROP, prefetch=1)
    expected = stream(Loader(folder, batch_size=8, crop=CROP), 12)
    got = stream(loader, 1)
    one.stop(signal.SIGKILL)
    timer = threading.Timer(1.5, lambda: server(folder, port=one.port))
    timer.start()
    got += stream(loader, 11)
    timer.join()

    assert all(the_same(*pair) for pair in zip(got, expected, strict=True))


def test_no_server_at_all_is_said_with_its_address(data, server):
    folder, _ = data["jpeg"]
    one = server(folder)
    loader = Loader(one.location, batch_size=8, crop=CROP, server_patience=1)
    one.stop(signal.SIGKILL)

    with pytest.raises(DataError, match=rf"no server has answered for 1 s \({one.location}: .*is alexprep serve running there"):
        stream(loader, 2)


@pytest.mark.parametrize("reader", ["next(iter(loader))", "threading.Thread(target=list, args=(loader,), daemon=True).start(); time.sleep(0.3)"])
def test_a_program_that_leaves_in_the_middle_ends(data, reader):
    """Questions that are still on their way keep it from nothing, and abort nothing."""
    program = f"""
        import threading, time
        from alexprep.pipeline import Loader
        loader = Loader({data["jpeg"][1]!r}, batch_size=8, crop=48, form="batches")
        {reader}
    """
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, "Fatal" in done.stderr) == (0, False), done.stderr


def test_one_server_that_hangs_does_not_hold_up_the_start(data, server):
    folder, _ = data["jpeg"]
    hung, good = server(folder), server(folder)
    hung.process.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    first = stream(Loader(f"{hung.location},{good.location}", batch_size=8, crop=CROP), 1)[0]

    assert the_same(first, stream(Loader(folder, batch_size=8, crop=CROP), 1)[0])
    assert time.monotonic() - start < 15


def test_ctrl_c_is_heard_while_a_server_says_nothing(data):
    with socket.create_server(("127.0.0.1", 0)) as hung:
        program = f"from alexprep.pipeline import Loader; print(flush=True); Loader('grpc://127.0.0.1:{hung.getsockname()[1]}')"
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        error = process.communicate(timeout=60)[1]

    assert "KeyboardInterrupt" in error
    assert time.monotonic() - start < 10
