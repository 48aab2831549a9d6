"""Clients that take nothing hold little and are let go; slow ones are not."""

import contextlib
import json
import socket
import threading
import time

import pyarrow as pa
import pytest
from alexprep.pipeline import Loader
from alexprep.pipeline.addresses import Address
from alexprep.pipeline.serving import stalls
from alexprep.pipeline.serving.handlers import RequestHandler
from alexprep.pipeline.serving.server import Limits, Service, _Request
from alexprep.pipeline.serving.stalls import hang_up, name_of, taken
from pyarrow import flight

from ...support.serving import CROP, slow, the_same, ticket_of
from ...support.shards import stream


@pytest.mark.process
def test_a_client_that_takes_nothing_holds_little_and_is_let_go(data, server):
    """And meanwhile a full server tells others when to come again; then it answers them."""
    folder, _ = data["raw"]
    one = server(folder, "--stall-seconds", 6, "--max-requests", 2)
    large = flight.Ticket(ticket_of(folder, form="batches", batch_size=80, views="ten", crop=72).to_bytes())  # 50 MB
    assert len(flight.connect(one.location).do_get(large).read_all()) == 80  # torch is imported now
    before = one.resident()
    clients = [flight.connect(one.location) for _ in range(2)]
    readers = [client.do_get(large) for client in clients]  # nothing is read
    asking, deadline = flight.connect(one.location), time.monotonic() + 5
    while (running := one.status()["requests_now"]) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(flight.FlightUnavailableError) as shed:
        asking.do_get(large).read_all()
    facts = json.loads(shed.value.extra_info)
    held = one.resident() - before
    loader = Loader(one.location, batch_size=8, crop=CROP)
    batches = stream(loader, 3)

    assert (facts["kind"], facts["retry_after"]) == ("busy", 0.25)
    assert running == 2
    assert held < 64 << 20
    assert all(the_same(*pair) for pair in zip(batches, stream(Loader(folder, batch_size=8, crop=CROP), 3), strict=True))
    with pytest.raises((flight.FlightError, pa.ArrowException)):
        [reader.read_all() for reader in readers]
    log = one.stop()[1]
    assert '"event": "stalled"' in log


@pytest.mark.process
def test_a_slow_client_is_not_taken_for_one_that_takes_nothing(data, server):
    """A message of 4 MiB takes it twice as long as a client may take nothing."""
    folder, _ = data["raw"]
    one = server(folder, "--stall-seconds", 2)
    large = flight.Ticket(ticket_of(folder, form="batches", batch_size=80, views="ten", crop=72).to_bytes())  # 50 MB
    rows = 0
    with slow(one.port, 1_000_000) as port:
        for chunk in flight.connect(f"grpc://127.0.0.1:{port}").do_get(large, flight.FlightCallOptions(timeout=60)):
            rows += len(chunk.data)
            if rows * 10 * 3 * 72 * 72 * 4 > 9_000_000:
                break
    log = one.stop()[1]

    assert '"event": "stalled"' not in log


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_a_client_has_taken_is_known_and_its_connection_can_be_closed(host):
    """Among other sockets, of which some are no connections."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as held:
        listening = held.enter_context(socket.create_server((host, 0), family=family))
        [held.enter_context(other) for other in (*socket.socketpair(), socket.socket())]
        port, clients = listening.getsockname()[1], []
        for _ in range(2):
            clients.append(held.enter_context(socket.create_connection((host, port))))
            here = held.enter_context(listening.accept()[0])
            here.sendall(bytes(30_000 * len(clients)))  # that much is taken without being read
        names = [f"[{host}]:{one.getsockname()[1]}" if ":" in host else f"{host}:{one.getsockname()[1]}" for one in clients]
        deadline = time.monotonic() + 10
        while sum(taken(port).values()) < 90_000 and time.monotonic() < deadline:
            time.sleep(0.01)
        counts = taken(port)
        closed = hang_up(port, names[0]), hang_up(port, "1.2.3.4:5")
        left = b"".join(iter(lambda: clients[0].recv(1 << 20), b""))  # it ends
        clients[1].sendall(b"still there")

    assert counts == {names[0]: 30_000, names[1]: 60_000}
    assert closed == (True, False)
    assert len(left) == 30_000


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("ipv6:[::1]:5", "[::1]:5"),
        ("ipv6:%5B::1%5D:5", "[::1]:5"),
        ("ipv6:%5Bfe80::1%252%5D:5", "[fe80::1]:5"),
        ("ipv4:1.2.3.4:5", "1.2.3.4:5"),
        ("ipv6:[::ffff:1.2.3.4]:5", "1.2.3.4:5"),
    ],
)
def test_clients_are_named_as_their_connections_are(peer, name):
    assert name_of(peer) == name


def stalls_after(monkeypatch, counts, seconds=10.0):
    """The second, of those in which a client has taken so many bytes, at which it is found to stall."""
    watch = stalls.Stalls(1, seconds)
    for now, count in enumerate(counts):
        monkeypatch.setattr(stalls, "taken", lambda _, count=count: {"a": count})
        monkeypatch.setattr(stalls.time, "monotonic", lambda now=now: 1000.0 + now)
        if watch.among({"a": 1000.0}):
            return now
    return None


def test_who_stalls_is_told_from_who_is_slow(monkeypatch):
    """A ping a second is not taking; 64 KiB in ten seconds are; ten times as long is enough for any message."""
    assert stalls_after(monkeypatch, [0] * 200) == 11
    assert stalls_after(monkeypatch, [17 * i for i in range(200)]) == 11
    assert stalls_after(monkeypatch, [(70 << 10) * i // 9 for i in range(200)]) == 101
    assert stalls_after(monkeypatch, [5 << 20, *[100 + 70_000 * i for i in range(20)]]) is None  # another connection of that name


def test_the_watch_goes_on_after_it_could_not_look(data, monkeypatch):
    looks, looked = [], threading.Event()

    def taken(_):
        looks.append(1)
        if len(looks) == 1:
            raise OSError(24, "Too many open files")
        looked.set()
        return {}

    service = Service(RequestHandler(str(data["raw"][0])), Address("127.0.0.1", 0), limits=Limits(stall_seconds=1))
    service._requests.add(_Request("views", "1.2.3.4:5", sending_since=time.monotonic()))
    monkeypatch.setattr(stalls, "taken", taken)

    assert looked.wait(20)
    service._requests.clear()
    service.drain(1)


@pytest.mark.process
def test_files_that_nobody_takes_hold_little_too(data, server):
    folder, _ = data["raw"]
    one = server(folder)
    name, size = max(((name, size) for name, size in RequestHandler(str(folder)).files().items()), key=lambda pair: pair[1])
    body = json.dumps({"file": name, "offset": 0, "length": min(size, 8 << 20)}).encode()
    before = one.resident()
    clients = [flight.connect(one.location) for _ in range(40)]
    readers = [client.do_action(flight.Action("read", body)) for client in clients]
    first = [next(reader) for reader in readers]
    held = one.resident() - before

    assert len(first) == 40
    assert held < 120 << 20
    assert len(b"".join([first[0].body.to_pybytes(), *(result.body.to_pybytes() for result in readers[0])])) == size
