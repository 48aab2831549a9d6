"""A server listens, answers many at once, and ends when it is told to."""

import contextlib
import json
import os
import random
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from alexprep.pipeline import Loader
from alexprep.pipeline.addresses import Address
from alexprep.pipeline.serving.handlers import RequestHandler
from alexprep.pipeline.serving.metrics import Health
from alexprep.pipeline.serving.server import Limits, Service
from pyarrow import flight

from ...support.commands import command
from ...support.serving import CROP, FORMS, the_same, ticket_of
from ...support.shards import stream


@pytest.mark.process
def test_noise_and_connections_that_say_nothing_do_no_harm(data, server):
    """A thousand of them, half sending garbage, some stopping half-way through a greeting: others are answered, and all is given back."""
    folder, _ = data["jpeg"]
    one = server(folder)
    ticket = flight.Ticket(ticket_of(folder).to_bytes())
    assert len(flight.connect(one.location).do_get(ticket).read_all()) == 8
    before = one.resident()
    with contextlib.ExitStack() as held:
        for number in range(1000):
            connection = held.enter_context(socket.create_connection(("127.0.0.1", one.port)))
            if number % 2:
                connection.sendall(random.Random(number).randbytes(64))
            elif number % 10 == 0:
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0")
        assert len(flight.connect(one.location).do_get(ticket).read_all()) == 8
    assert one.get("/healthz") == (200, "ok\n")
    assert one.resident() - before < 100 << 20
    deadline = time.monotonic() + 20
    while len(os.listdir(f"/proc/{one.process.pid}/fd")) > 60 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(os.listdir(f"/proc/{one.process.pid}/fd")) <= 60
    assert one.stop()[0] == 0


def test_a_request_in_the_moment_of_draining_is_not_waited_for(data):
    service = Service(RequestHandler(str(data["jpeg"][0])), Address("127.0.0.1", 0))
    service.draining = True
    with pytest.raises(flight.FlightUnavailableError):
        service._admitted("views", "ipv4:127.0.0.1:1")

    assert service.status()["requests_now"] == 0
    assert service.drain(5)


def test_servers_listen_on_ipv6_too(data):
    service = Service(RequestHandler(str(data["jpeg"][0])), Address.parse("[::1]:0"))
    side = Health(Address.parse("[::1]:0"), service.gauges, lambda: True)
    with urllib.request.urlopen(side.url + "/readyz", timeout=10) as answer:
        assert answer.status == 200
    assert the_same(stream(Loader(service.location, batch_size=8, crop=CROP), 1)[0], stream(Loader(data["jpeg"][0], batch_size=8, crop=CROP), 1)[0])
    side.shutdown()
    side.server_close()
    service.drain(1)


@pytest.mark.process
def test_sigterm_lets_answers_arrive_and_sends_newcomers_away(data, server):
    folder, _ = data["raw"]
    one = server(folder, "--drain-seconds", 20)
    client = flight.connect(one.location)
    reader = client.do_get(flight.Ticket(ticket_of(folder, form="batches", batch_size=80, views="ten", crop=72).to_bytes()))
    first = reader.read_chunk().data
    one.process.terminate()
    deadline = time.monotonic() + 10
    while one.get("/readyz")[0] == 200 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert one.get("/readyz") == (503, "draining\n")
    assert one.get("/healthz") == (200, "ok\n")
    with pytest.raises(flight.FlightUnavailableError, match="shut down"):
        flight.connect(one.location).do_get(flight.Ticket(ticket_of(folder).to_bytes())).read_all()
    rest = reader.read_all()

    assert len(first) + len(rest) == 80
    log = one.process.communicate(timeout=30)[1]
    events = [json.loads(line) for line in log.splitlines()]
    assert [event["event"] for event in events] == ["ready", "draining", "stopped"]
    assert events[-1]["all_answered"] is True
    assert one.process.returncode == 0


@pytest.mark.process
def test_a_port_that_is_taken_is_said(data):
    port = data["jpeg"][1].rpartition(":")[2]
    done = command("alexprep", "serve", data["jpeg"][0], "--bind", f"127.0.0.1:{port}")

    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; give another --bind" in done.stderr


@pytest.mark.process
def test_commands_that_a_service_is_nothing_for_say_so(data):
    location = data["jpeg"][1]
    assert "is served already" in command("alexprep", "serve", location).stderr
    assert "a source is raw images" in command("alexprep", "inspect", location).stderr
    assert "run bench where alexprep serve runs" in command("alexprep", "bench", location).stderr
    assert "expected grpc://HOST:PORT" in command("alexprep", "serve", "--status", "http://127.0.0.1:1").stderr


@pytest.mark.process
def test_data_that_is_neither_served_nor_synthetic_is_a_usage_error(data):
    done = command("alextrain", "run", "--data", data["jpeg"][0])

    assert done.returncode == 2
    assert "give a folder of shards as DIRECTORY" in done.stderr


@pytest.mark.process
def test_many_trainers_at_once_get_their_own_batches(data):
    """Sixteen of them against one server that takes four requests at a time: all are sent away now and then, and none gets another's."""
    folder, _ = data["jpeg"]
    service = Service(RequestHandler(str(folder)), Address("127.0.0.1", 0), limits=Limits(requests=4, retry_after=0.01))
    right = [False] * 16

    def train(rank):
        options = {"batch_size": 64, "crop": CROP, "seed": rank % 3, "rank": rank, "world_size": 16, "form": FORMS[rank % 3]}
        pairs = zip(stream(Loader(service.location, **options), 4), stream(Loader(folder, **options), 4), strict=True)
        right[rank] = all(the_same(*pair) for pair in pairs)

    threads = [threading.Thread(target=train, args=(rank,)) for rank in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shed = service.status()["shed"]
    service.drain(1)

    assert all(right)
    assert shed > 0
