"""`alexprep serve`: the same bits from servers as from shards, whatever becomes of the servers; and nothing to whom it is not for."""

import contextlib
import datetime as dt
import ipaddress
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from alexprep.pipeline import DamagedRecord, DataError, Loader, LoaderConfig, Records, load_stats, read_manifest
from alexprep.pipeline.addresses import Address
from alexprep.pipeline.serving import stalls
from alexprep.pipeline.serving.auth import Secrets, Tokens
from alexprep.pipeline.serving.handlers import RequestHandler
from alexprep.pipeline.serving.metrics import Health
from alexprep.pipeline.serving.protocol import FIELDS, Ticket, WrongTicket, digest, shape_of
from alexprep.pipeline.serving.remote_steps import ServerLeftOut
from alexprep.pipeline.serving.server import Limits, Service, _Request
from alexprep.pipeline.serving.stalls import hang_up, name_of, taken
from alexprep.pipeline.shards.stats import stats_for
from alexprep.pipeline.storage.flight_client import Servers, locations
from alexprep.pipeline.storage.uri import location
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import flight

from ...support.commands import command
from ...support.paths import ROOT
from ...support.shards import damage, make_shards, stream, training_shards

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")  # beartype draws in the services' threads too
FORMS = ("records", "views", "batches")
CROP = 48
TOKEN = "a-token-of-the-tests-0123456789"


class Process:
    """A server of its own."""

    def __init__(self, directory, *options, port=0):
        program = [Path(sys.executable).parent / "alexprep", "serve", directory, "--bind", f"127.0.0.1:{port}", "--http", "127.0.0.1:0", "--json"]
        self.process = subprocess.Popen([*program, *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        facts = json.loads(line)
        self.location, self.http = facts["location"], facts["http"]
        self.port = int(self.location.rpartition(":")[2])

    def get(self, path):
        """Status and text of an HTTP answer."""
        try:
            with urllib.request.urlopen(self.http + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def status(self, **options):
        return json.loads(b"".join(r.body.to_pybytes() for r in flight.connect(self.location, **options).do_action(flight.Action("status", b""))))

    def resident(self):
        """Bytes of memory that it has."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, number=signal.SIGTERM):
        """End it; its code and its log."""
        self.process.send_signal(number)
        log = self.process.communicate(timeout=60)[1]
        return self.process.returncode, log


@pytest.fixture
def server(request):
    """Starts servers, and ends those that are left."""
    started = []

    def start(*arguments, **options):
        started.append(Process(*arguments, **options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGCONT)
            one.process.kill()
            one.process.communicate()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards with statistics, in both encodings, and a service of each in this process."""
    root = tmp_path_factory.mktemp("served")
    jpeg = training_shards(root, 40)
    make_shards(root / "images", root / "raw", size=72, encoding="raw")
    assert command("alexprep", "stats", root / "raw", "--pca").returncode == 0
    services = {name: Service(RequestHandler(str(folder)), Address("127.0.0.1", 0)) for name, folder in {"jpeg": jpeg, "raw": root / "raw"}.items()}
    yield {"jpeg": (jpeg, services["jpeg"].location), "raw": (root / "raw", services["raw"].location)}
    for service in services.values():
        service.drain(1)


def the_same(one, other):
    """Every number of two batches, and how they lie in memory."""
    return (
        torch.equal(one.images, other.images)
        and (one.images.dtype, one.images.stride()) == (other.images.dtype, other.images.stride())
        and torch.equal(one.labels, other.labels)
        and torch.equal(one.records, other.records)
    )


configs = st.fixed_dictionaries(
    {
        "batch_size": st.sampled_from([4, 12, 20]),
        "seed": st.integers(0, 2**64 - 1),
        "world_size": st.sampled_from([1, 2, 4]),
        "crop": st.sampled_from([CROP, 72, 31]),
        "mean": st.sampled_from(["pixel", "center", "channel", "none"]),
        "colour": st.sampled_from([0.0, 0.1]),
        "divide": st.sampled_from([1.0, 1.1]),
        "mirror": st.booleans(),
        "shuffle": st.sampled_from(["full", "block", "none"]),
        "layout": st.sampled_from(["CHW", "channels_last"]),
        "dtype": st.sampled_from(["float32", "bfloat16", "float16"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["jpeg", "raw"]), st.sampled_from(FORMS), configs, st.integers(0, 50), st.integers(0, 3))
def test_batches_from_a_service_are_those_from_shards_to_the_last_bit(data, encoding, form, config, step, rank):
    """Whatever the options, the rank, and the step it begins at, epochs later too."""
    folder, location = data[encoding]
    local, served = (Loader(where, rank=rank % config["world_size"], form=form, **config) for where in (folder, location))
    for loader in (local, served):
        loader.load_state_dict({"step": step})

    assert len(local) == len(served)
    assert all(the_same(*pair) for pair in zip(stream(local, 3), stream(served, 3), strict=True))


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("views", "world_size"), [("ten", 1), ("center", 3)])
def test_an_evaluation_from_a_service_is_that_from_shards(data, encoding, form, views, world_size):
    """Every record once, in stored order, also in the last, smaller batch."""
    folder, location = data[encoding]
    for rank in range(world_size):
        local, served = (
            Loader(where, split="val", views=views, batch_size=7, crop=CROP, rank=rank, world_size=world_size, form=form)
            for where in (folder, location)
        )
        assert all(the_same(*pair) for pair in zip(local, served, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize("form", FORMS)
def test_a_gpu_makes_the_same_of_what_servers_send(data, encoding, form):
    """Of records to the last bit; of views and batches, which the server's CPU has decoded, within what nvJPEG's own inverse DCT may differ."""
    folder, location = data[encoding]
    local, served = (stream(Loader(where, device="gpu", batch_size=20, crop=CROP, form=form), 6) for where in (folder, location))
    for one, other in zip(local, served, strict=True):
        assert other.images.is_cuda
        assert one.records.equal(other.records)
        difference = (one.images - other.images).abs()
        assert difference.max() <= (0 if form == "records" else 1e-4 if encoding == "raw" else 8)


def test_a_run_on_served_data_is_the_run_on_the_folder(data, tmp_path):
    """alextrain run --data grpc://..., with views of half the bytes; the weights are the same to the last bit."""
    folder, location = data["jpeg"]
    options = ["--steps", "3", "--batch-size", "16", "--width", "0.05", "--crop", "64", "--set", "eval_batch_size=8"]
    local = command("alextrain", "run", folder, "--out", tmp_path / "local", *options)
    served = command("alextrain", "run", "--data", location, "--out", tmp_path / "served", "--set", "form=views", *options)
    assert (local.returncode, served.returncode) == (0, 0), served.stderr
    runs = [torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("local", "served")]

    assert served.stdout.splitlines()[:-1] == local.stdout.splitlines()[:-1]
    assert all(torch.equal(weight, runs[1][name]) for name, weight in runs[0].items())
    pictures = [(tmp_path / name / "report.html").read_text().count("data:image") for name in ("local", "served")]
    assert pictures[0] == pictures[1] > 10  # those of the data come from the servers too


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


def test_servers_that_all_hang_are_given_up_in_time(data):
    """Sockets that take connections and say nothing: `patience` is what it says."""
    with contextlib.ExitStack() as held:
        hung = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        servers = Servers("grpc://" + ",".join(f"127.0.0.1:{one.getsockname()[1]}" for one in hung))
        start = time.monotonic()
        with pytest.raises(DataError, match="no server has answered for 2 s"):
            servers.act("status", patience=2)
        assert time.monotonic() - start < 6


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


@pytest.mark.parametrize(
    "in_child", ["next(iter(loader))", "Loader(where, batch_size=8, crop=48)", "next(iter(Loader(where, batch_size=4, crop=48)))"]
)
def test_a_loader_of_a_service_does_not_go_through_a_fork(data, in_child):
    """gRPC would hang there; nothing does."""
    program = f"""
        import os
        from alexprep.pipeline import DataError, Loader
        where = {data["jpeg"][1]!r}
        loader = Loader(where, batch_size=8, crop=48)
        child = os.fork()
        if not child:
            try:
                {in_child}
            except DataError as error:
                os._exit(" fork" in str(error))
            os._exit(2)
        raise SystemExit(os.waitpid(child, 0)[1] >> 8)
    """
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], timeout=60, check=False).returncode == 1


@pytest.mark.parametrize("form", FORMS)
def test_damaged_records_are_named_or_passed_over_as_from_shards(data, tmp_path, form):
    copy = shutil.copytree(data["jpeg"][0], tmp_path / "shards")
    for record in (3, 30):
        damage(copy, record, 200)
    service = Service(RequestHandler(str(copy)), Address("127.0.0.1", 0))
    options = {"batch_size": 20, "crop": CROP, "form": form}
    with pytest.raises(DataError, match=r"damaged records; alexprep repair makes their shards again:\n  record (3|30) \("):
        stream(Loader(service.location, **options), 4)
    with pytest.warns(DamagedRecord) as of_served:
        served = stream(Loader(service.location, on_bad="skip", **options), 6)
    with pytest.warns(DamagedRecord) as of_local:
        local = stream(Loader(copy, on_bad="skip", **options), 6)
    service.drain(1)

    assert all(the_same(*pair) for pair in zip(served, local, strict=True))
    assert {str(warning.message) for warning in of_served} == {str(warning.message) for warning in of_local}


@pytest.mark.parametrize("form", FORMS)
def test_records_that_damage_has_made_a_few_bytes_long_are_passed_over_too(data, tmp_path, form):
    copy = shutil.copytree(data["jpeg"][0], tmp_path / "shards")
    records = Records(read_manifest(copy), "train")
    ends = np.cumsum([0, *(len(records.image(number)) for number in range(records.shards[0].rows))], dtype=np.int32)
    wrong = ends.copy()
    wrong[4] = wrong[3] + 5  # record 3 has five bytes; the rest of it belongs to record 4
    path = copy / records.shards[0].file
    content = path.read_bytes()
    assert content.count(ends.tobytes()) == 1
    path.write_bytes(content.replace(ends.tobytes(), wrong.tobytes()))
    service = Service(RequestHandler(str(copy)), Address("127.0.0.1", 0))
    options = {"batch_size": 20, "crop": CROP, "form": form, "on_bad": "skip"}
    with pytest.warns(DamagedRecord):
        served = stream(Loader(service.location, **options), 6)
    with pytest.warns(DamagedRecord):
        local = stream(Loader(copy, **options), 6)
    service.drain(1)

    assert all(the_same(*pair) for pair in zip(served, local, strict=True))


def test_statistics_of_ones_own_are_for_records_only(data):
    folder, location = data["jpeg"]
    raw = stats_for(read_manifest(data["raw"][0]), "train")
    expected = stream(Loader(folder, batch_size=8, crop=CROP, stats=raw), 2)

    assert all(the_same(*pair) for pair in zip(stream(Loader(location, batch_size=8, crop=CROP, stats=raw), 2), expected, strict=True))
    with pytest.raises(ValueError, match='need form="records"'):
        Loader(location, batch_size=8, crop=CROP, stats=raw, form="views")


def test_servers_of_other_shards_are_not_believed(data):
    """Named beside others, it is the first one asked that decides; alone, the message says why."""
    mixed = f"{data['jpeg'][1]},{data['raw'][1]}"
    for _ in range(4):
        loader = Loader(mixed, batch_size=8, crop=CROP)
        name = loader.records.manifest.config.encoding
        expected = stream(Loader(data[name][0], batch_size=8, crop=CROP), 20)
        with pytest.warns(ServerLeftOut, match="this server has another data set"):
            assert all(the_same(*pair) for pair in zip(stream(loader, 20), expected, strict=True))
        assert np.array_equal(loader.records.pixels(9), Records(read_manifest(data[name][0]), "train").pixels(9))

    loader = Loader(data["jpeg"][1], batch_size=8, crop=CROP)
    loader._source._servers = Servers(data["raw"][1])
    both = command("alexprep", "serve", "--status", mixed)
    assert both.returncode == 1
    assert "these servers have different data sets" in both.stderr
    with pytest.raises(DataError, match=rf"{data['raw'][1]}: this server has another data set"):
        stream(loader, 8)


def test_the_files_of_a_served_data_set_can_be_read_and_nothing_else(data):
    folder, location = data["jpeg"]
    assert (read_manifest(location).plan, read_manifest(location).config) == (read_manifest(folder).plan, read_manifest(folder).config)
    assert load_stats(read_manifest(location)).to_json() == load_stats(read_manifest(folder)).to_json()
    local, served = (Records(read_manifest(where), "train") for where in (folder, location))
    assert [local.key(number) for number in (0, 79)] == [served.key(number) for number in (0, 79)]
    assert np.array_equal(local.pixels(50), served.pixels(50))
    client = flight.connect(location)
    for body in (
        {"file": "../../../../etc/passwd", "offset": 0, "length": 8},
        {"file": "/etc/passwd", "offset": 0, "length": 8},
        {"file": "manifest.json", "offset": -1, "length": 8},
        {"file": "manifest.json", "offset": 0, "length": 1 << 40},
        {"file": "manifest.json", "offset": True, "length": 8},
        ["manifest.json"],
    ):
        with pytest.raises(flight.FlightServerError) as refused:
            list(client.do_action(flight.Action("read", json.dumps(body).encode())))
        assert json.loads(refused.value.extra_info)["kind"] == "ticket"
    with pytest.raises(flight.FlightServerError, match="not supported: use do_get with a ticket"):
        list(client.list_flights())

    written = command("alexprep", "stats", location, "--pca")
    assert written.returncode == 1
    assert "a served data set is read only" in written.stderr


def ticket_of(folder, form="views", step=0, **options):
    manifest = read_manifest(folder)
    return Ticket(digest(manifest, stats_for(manifest, "train")), form, step, LoaderConfig(**{"crop": CROP, "batch_size": 8, **options}))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_ticket_are_refused(garbage):
    with pytest.raises(WrongTicket):
        Ticket.parse(garbage)


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3))


@settings(max_examples=300)
@given(st.data())
def test_a_ticket_with_anything_in_any_place_is_read_or_refused(data):
    """And what is read says the same when it is written again."""
    value = json.loads(Ticket("0" * 64, "views", 7, LoaderConfig()).to_bytes())
    place = data.draw(st.sampled_from(["version", "data", "form", "step", "config", "more", *FIELDS]))
    drawn = data.draw(json_values)
    if place in FIELDS:
        value["config"][place] = drawn
    else:
        value[place] = drawn
    try:
        ticket = Ticket.parse(json.dumps(value).encode())
    except WrongTicket as error:
        assert str(error)
    else:
        assert Ticket.parse(ticket.to_bytes()) == ticket


@given(configs, st.integers(0, 2**62 - 1), st.sampled_from(FORMS))
def test_a_ticket_comes_back_as_it_was(config, step, form):
    ticket = Ticket("d" * 64, form, step, LoaderConfig(**config))

    assert Ticket.parse(ticket.to_bytes()) == ticket


def test_tickets_that_cannot_be_are_answered_with_the_reason(data):
    folder, location = data["jpeg"]
    client = flight.connect(location)
    good = ticket_of(folder)
    reasons = {
        b"": "this is no ticket",
        b"x" * 5000: "at most 4096 bytes",
        Ticket("0" * 64, "views", 0, good.config).to_bytes(): "another data set",
        ticket_of(folder, crop=73).to_bytes(): "crop 73 does not fit into records of 72 pixels",
        ticket_of(folder, batch_size=1 << 20).to_bytes(): "may have at most 65536 records, got 1048576",
        good.to_bytes().replace(b'"train"', b'"test"'): "there is no split 'test' here, only train, val",
        good.to_bytes().replace(b'"step": 0', b'"step": -1'): "step must be a whole number",
        good.to_bytes().replace(b'"world_size": 1', b'"world_size": 3'): "divisible by world_size",
        ticket_of(folder, batch_size=500).to_bytes(): "fewer than one batch of 500",
    }
    for ticket, reason in reasons.items():
        with pytest.raises(flight.FlightServerError) as refused:
            client.do_get(flight.Ticket(ticket)).read_all()
        assert reason in json.loads(refused.value.extra_info)["text"]

    assert len(client.do_get(flight.Ticket(good.to_bytes())).read_all()) == 8


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_records_in_several_messages_are_those_of_one(data, encoding, monkeypatch):
    folder, location = data[encoding]
    ticket = ticket_of(folder, form="records", batch_size=40)
    whole = flight.connect(location).do_get(flight.Ticket(ticket.to_bytes())).read_all()
    monkeypatch.setattr("alexprep.pipeline.serving.protocol.STORED", 50_000)
    parts = list(RequestHandler(str(folder)).to(ticket)[1])

    assert len(parts) > 2
    assert pa.Table.from_batches(parts).equals(whole.combine_chunks())


@given(st.integers(8, 4096), st.integers(1, 200 << 20), st.integers(1, 10**7), st.sampled_from(["jpeg", "raw"]))
def test_no_message_is_larger_than_arrow_sends(data, size, each, count, encoding):
    """Whatever the records' size is, in the mean and of the largest: twice its pixels, which no JPEG has that is not tiny."""
    manifest = read_manifest(data["raw"][0])
    each = each if encoding == "jpeg" else 3 * size * size
    shards = (replace(manifest.split("train").shards[0], rows=count, bytes=each * count),)
    config = replace(manifest.config, size=size, encoding=encoding)
    manifest = replace(manifest, config=config, splits={"train": replace(manifest.split("train"), shards=shards)})
    rows = shape_of("records", manifest, LoaderConfig(crop=8)).rows

    assert rows >= 1
    assert rows == 1 or rows * each <= 8 << 20
    assert rows * 6 * size * size <= 1 << 30


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


@contextlib.contextmanager
def slow(port, rate):
    """A way to a server, by which so many bytes a second come back; its port."""
    ends = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def there(client, behind):
            with contextlib.suppress(OSError):
                while data := client.recv(1 << 16):
                    behind.sendall(data)

        def back():
            client, behind = listening.accept()[0], socket.socket()
            with client, behind, contextlib.suppress(OSError), contextlib.ExitStack() as last:
                last.callback(client.shutdown, socket.SHUT_RDWR)  # `there` still reads of it
                behind.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
                behind.connect(("127.0.0.1", port))
                threading.Thread(target=there, args=(client, behind), daemon=True).start()
                while not ends.is_set() and (data := behind.recv(rate // 50)):
                    client.sendall(data)
                    time.sleep(len(data) / rate)

        threading.Thread(target=back, daemon=True).start()
        yield listening.getsockname()[1]
        ends.set()


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


def test_probes_are_answered_while_others_drip(data, server):
    """A hundred connections that send a byte now and then."""
    one = server(data["jpeg"][0])
    host, port = one.http.removeprefix("http://").split(":")
    with contextlib.ExitStack() as held:
        dripping = [held.enter_context(socket.create_connection((host, int(port)))) for _ in range(100)]
        for connection in dripping:
            with contextlib.suppress(OSError):
                connection.sendall(b"G")
        assert all(one.get("/healthz") == (200, "ok\n") for _ in range(20))


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


def test_a_server_is_seen_from_outside(data, server):
    folder, _ = data["jpeg"]
    one = server(folder, "--log-level", "debug")
    stream(Loader(one.location, batch_size=8, crop=CROP, form="views"), 2)
    metrics = one.get("/metrics")[1]
    counted = {line.split(" ")[0]: float(line.split(" ")[1]) for line in metrics.splitlines() if not line.startswith("#")}
    shown = command("alexprep", "serve", "--status", one.location)
    gone = command("alexprep", "serve", "--status", f"{one.location},127.0.0.1:1", "--json")
    log = [json.loads(line) for line in one.stop()[1].splitlines()]

    assert counted['alexprep_requests_total{form="views",outcome="ok"}'] >= 2
    assert counted['alexprep_sent_bytes_total{form="views"}'] >= 2 * 8 * CROP * CROP * 3
    assert counted['alexprep_request_seconds_count{form="views"}'] >= 2
    assert counted["process_resident_memory_bytes"] > 10 << 20
    assert one.location in shown.stdout
    assert "ready for" in shown.stdout
    assert "train 80, val 17 records" in shown.stdout
    assert shown.returncode == 0
    assert gone.returncode == 1
    assert json.loads(gone.stdout)["grpc://127.0.0.1:1"]["state"] == "away"
    assert {"form", "peer", "outcome", "seconds"} <= set(next(line for line in log if line["event"] == "request"))


def certificates(folder):
    """A CA, and certificates of it for 127.0.0.1 and for a client; files by name."""
    now = dt.datetime.now(dt.UTC)
    made = {}

    def make(name, issuer=None):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signer, signer_key = (subject, key) if issuer is None else (made[issuer][0].subject, made[issuer][1])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(signer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=1))
        builder = builder.not_valid_after(now + dt.timedelta(days=9)).add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
        if issuer:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
            builder = builder.add_extension(names, critical=False)
        made[name] = builder.sign(signer_key, hashes.SHA256()), key
        (folder / f"{name}.crt").write_bytes(made[name][0].public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        (folder / f"{name}.key").touch(mode=0o600)
        (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))

    make("ca")
    make("server", "ca")
    make("client", "ca")
    make("stranger")
    return folder


def secret(path, content):
    path.touch(mode=0o600)
    path.write_text(content)
    return path


def test_beyond_loopback_a_server_needs_tls_and_somebody_who_may(data, tmp_path):
    """Refused before anything listens."""
    files = certificates(tmp_path)
    secret(tmp_path / "tokens", TOKEN + "\n")
    tls = ["--tls-cert", files / "server.crt", "--tls-key", files / "server.key"]
    for options in ([], tls, ["--tokens", tmp_path / "tokens"]):
        done = command("alexprep", "serve", data["jpeg"][0], "--bind", "0.0.0.0:0", *options)
        assert (done.returncode, done.stdout) == (1, "")
        assert "0.0.0.0:0 can be reached from other machines: that needs TLS" in done.stderr

    Secrets(files / "server.crt", files / "server.key", tokens=tmp_path / "tokens").check(Address.parse("0.0.0.0:1"))
    Secrets(files / "server.crt", files / "server.key", client_ca=files / "ca.crt").check(Address.parse("[::]:1"))
    Secrets().check(Address.parse("[::1]:1"))
    wrong = {"line 2 is not a token": f"{TOKEN}\nshort\n", "the file has no token": "# nothing\n"}
    for reason, content in wrong.items():
        (tmp_path / "tokens").write_text(content)
        assert reason in command("alexprep", "serve", data["jpeg"][0], "--bind", "127.0.0.1:0", "--tokens", tmp_path / "tokens").stderr
    for cert, key, reason in (
        ("server.key", "server.crt", "server.key has no certificate in PEM"),
        ("server.crt", "client.key", "client.key is not the key of"),
        ("none.crt", "server.key", "none.crt cannot be read: No such file"),
    ):
        done = command("alexprep", "serve", data["jpeg"][0], "--bind", "127.0.0.1:0", "--tls-cert", files / cert, "--tls-key", files / key)
        said = [line for line in done.stderr.splitlines() if '"exposed"' not in line]  # a certificate in the place of a key may be read by all
        assert (done.returncode, len(said)) == (1, 1)
        assert reason in done.stderr


def test_tokens_are_asked_for_and_read_again_on_sighup(data, server, tmp_path, monkeypatch):
    folder, _ = data["jpeg"]
    files = certificates(tmp_path)
    secret(tmp_path / "tokens", f"# of the trainers\n{TOKEN}\n")
    secret(tmp_path / "mine", f"# mine\n{TOKEN}\n")
    one = server(folder, "--tls-cert", files / "server.crt", "--tls-key", files / "server.key", "--tokens", tmp_path / "tokens")
    assert one.location.startswith("grpc+tls://")
    monkeypatch.setenv("ALEXPREP_CA", str(files / "ca.crt"))
    with pytest.raises(DataError, match="it refuses us: no good token"):
        Servers(one.location).act("status", patience=5)
    monkeypatch.setenv("ALEXPREP_TOKEN_FILE", str(tmp_path / "mine"))
    assert the_same(stream(Loader(one.location, batch_size=8, crop=CROP), 1)[0], stream(Loader(folder, batch_size=8, crop=CROP), 1)[0])

    (tmp_path / "tokens").write_text("short\n")
    one.process.send_signal(signal.SIGHUP)
    logged = [json.loads(one.process.stderr.readline()) for _ in range(2)][1]
    assert (logged["level"], logged["event"], logged["kept"]) == ("error", "tokens", 1)
    assert "line 1 is not a token" in logged["reason"]
    Servers(one.location).act("status", patience=5)  # a file that cannot be used changes nothing
    known = Servers(one.location)
    known.act("status", patience=5)
    (tmp_path / "tokens").write_text(TOKEN.upper() + "\n")
    one.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    with pytest.raises(DataError, match="it refuses us"):
        while time.monotonic() < deadline:
            Servers(one.location).act("status", patience=5)
    timer = threading.Timer(1, lambda: (tmp_path / "mine").write_text(TOKEN.upper() + "\n"))
    timer.start()
    known.act("status", patience=20)  # which has been answered once, and waits for the new token
    timer.join()
    Servers(one.location).act("status", patience=5)
    monkeypatch.setenv("ALEXPREP_CA", str(files / "stranger.crt"))
    with pytest.raises(DataError, match="no server has answered"):
        Servers(one.location).act("status", patience=1)
    log = one.stop()[1]
    assert TOKEN not in log
    assert '"event": "tokens"' in log


def test_of_mutual_tls_only_its_clients_are_answered(data, server, tmp_path, monkeypatch):
    folder, _ = data["jpeg"]
    files = certificates(tmp_path)
    one = server(folder, "--tls-cert", files / "server.crt", "--tls-key", files / "server.key", "--tls-client-ca", files / "ca.crt")
    monkeypatch.setenv("ALEXPREP_CA", str(files / "ca.crt"))
    for name, match in ((None, "no server has answered"), ("stranger", "no server has answered"), ("client", None)):
        if name:
            monkeypatch.setenv("ALEXPREP_CLIENT_CERT", str(files / f"{name}.crt"))
            monkeypatch.setenv("ALEXPREP_CLIENT_KEY", str(files / f"{name}.key"))
        with pytest.raises(DataError, match=match) if match else contextlib.nullcontext():
            assert json.loads(Servers(one.location).act("status", patience=1))["state"] == "ready"


def test_a_token_is_compared_whole(tmp_path):
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    tokens = Tokens(tmp_path / "tokens")

    assert tokens.hash_of(f"Bearer {TOKEN}")
    assert tokens.hash_of(f"bearer  {TOKEN} ")
    for wrong in (TOKEN, f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer ", f"Basic {TOKEN}", "Bearer é"):
        assert tokens.hash_of(wrong) is None


@pytest.mark.parametrize("text", ["", "8815", "host", "host:", "host:99999", "host:x", "host:²", ":1", "a/b:1"])
def test_addresses_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="HOST:PORT"):
        Address.parse(text)
    with pytest.raises(DataError, match="is not a server address"):
        locations(f"grpc://{text}")


def test_addresses_are_read_as_people_write_them():
    assert locations("grpc://a:1, b:2,grpc://a:1") == ["grpc://a:1", "grpc://b:2"]
    assert locations("grpc+tls://[::1]:5") == ["grpc+tls://[::1]:5"]
    assert locations(str(location(Path("grpc://a:1,grpc://b:2")))) == ["grpc://a:1", "grpc://b:2"]
    assert str(Address.parse("[::1]:5")) == "[::1]:5"
    assert Address.parse("127.9.9.9:1").loopback
    assert not Address.parse("10.0.0.1:1").loopback


def test_a_port_that_is_taken_is_said(data):
    port = data["jpeg"][1].rpartition(":")[2]
    done = command("alexprep", "serve", data["jpeg"][0], "--bind", f"127.0.0.1:{port}")

    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; give another --bind" in done.stderr


def test_commands_that_a_service_is_nothing_for_say_so(data):
    location = data["jpeg"][1]
    assert "is served already" in command("alexprep", "serve", location).stderr
    assert "a source is raw images" in command("alexprep", "inspect", location).stderr
    assert "give bench the folder" in command("alexprep", "bench", location).stderr
    assert "expected grpc://HOST:PORT" in command("alexprep", "serve", "--status", "http://127.0.0.1:1").stderr


def test_data_that_is_neither_served_nor_synthetic_is_a_usage_error(data):
    done = command("alextrain", "run", "--data", data["jpeg"][0])

    assert done.returncode == 2
    assert "a folder of shards is DIRECTORY" in done.stderr


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


def test_the_files_for_clusters_are_what_their_programs_take():
    """Read as YAML, and by what docker compose and Kubernetes' own schemas say; probes ask what the server answers."""
    import yaml

    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    manifest = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text()))
    container = next(doc for doc in manifest if doc["kind"] == "StatefulSet")["spec"]["template"]["spec"]["containers"][0]

    assert {"serve"} <= set(compose["services"])
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
