"""Tokens are kept, signals are heard at any rate, and a faulty server leads to the next one."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from alexprep.pipeline import DataError, Loader
from alexprep.pipeline.addresses import Address
from alexprep.pipeline.serving.auth import Secrets, Tokens, hmac
from alexprep.pipeline.serving.handlers import RequestHandler
from alexprep.pipeline.serving.protocol import Ticket
from alexprep.pipeline.serving.server import Service
from alexprep.pipeline.storage.credentials import ExposedToken, exposed
from alexprep.pipeline.storage.flight_client import NotHere, Servers
from alexprep.pipeline.storage.flight_fs import _files
from pyarrow import flight

from ...support.images import make_images
from ...support.shards import make_shards

TOKEN = "0123456789abcdef0123456789abcdef"
OTHER = TOKEN.upper()
CROP = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("secrets")
    make_images(root / "images", {"train/ant": 40, "train/bee": 40, "val/ant": 4, "val/bee": 4})
    make_shards(root / "images", root / "shards", size=32)
    return root / "shards"


def secret(path, content):
    path.touch(mode=0o600)
    path.write_text(content)
    return path


@pytest.fixture
def started():
    """Start `alexprep serve`; what is left of it is killed."""
    processes = []

    def start(*arguments):
        command = [Path(sys.executable).parent / "alexprep", "serve", "--bind", "127.0.0.1:0", "--http", "", "--json", *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process, json.loads(process.stdout.readline())["location"]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def service(folder):
    """A server in this process: served(address, secrets) returns it."""
    running = []

    def serve(**options):
        made = Service(RequestHandler(str(folder)), Address("127.0.0.1", 0), **options)
        threading.Thread(target=made.serve, daemon=True).start()
        running.append(made)
        return made

    yield serve
    for made in running:
        made.drain(5)


# Signals


@pytest.mark.parametrize(("tokens", "signals", "gap"), [(1, 100, 0.0), (2000, 2, 0.002), (20, 30, 0.0003)])
def test_a_server_survives_any_rate_of_sighup(folder, tmp_path, started, tokens, signals, gap):
    path = secret(tmp_path / "tokens", "".join(f"{number:032x}\n" for number in range(tokens)))
    process, _ = started(folder, "--tokens", path, "--log-level", "error")
    for _ in range(signals):
        process.send_signal(signal.SIGHUP)
        time.sleep(gap)
    time.sleep(0.3)

    assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)  # right behind it: drained, not killed
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_every_other_thread_of_a_server_has_the_signals_blocked(folder, started):
    process, _ = started(folder)
    threads = [
        path for path in Path(f"/proc/{process.pid}/task").glob("*/status") if path.parent.name != str(process.pid)
    ]  # the first waits for them
    masks = [re.search(r"SigBlk:\s*([0-9a-f]+)", path.read_text())[1] for path in threads]

    assert len(masks) > 2
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        assert all(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def test_sighup_during_the_start_of_a_server_is_no_end_of_it(folder):
    command = [Path(sys.executable).parent / "alexprep", "serve", folder, "--bind", "127.0.0.1:0", "--http", "", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not blocked(process.pid):
        time.sleep(0.001)
    while not ready(process):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.01)

    assert "location" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def blocked(pid):
    return int(re.search(r"SigBlk:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())[1], 16) & 1 << (signal.SIGHUP - 1)


def ready(process):
    import select

    return bool(select.select([process.stdout], [], [], 0)[0])


# Tokens


@pytest.mark.parametrize("address", ["10.0.0.1:8815", "example.org:8815", "[2001:db8::1]:8815"])
def test_a_token_is_never_sent_in_clear_beyond_this_machine(tmp_path, monkeypatch, address):
    monkeypatch.setenv("ALEXPREP_TOKEN_FILE", str(secret(tmp_path / "token", TOKEN)))
    start = time.monotonic()

    with pytest.raises(DataError, match=rf"grpc://{re.escape(address)} is not encrypted.*use grpc\+tls://"):
        Servers(f"grpc://{address}").act("status", patience=20)
    assert time.monotonic() - start < 5  # nobody was asked


def test_to_a_program_of_this_machine_a_token_may_go_in_clear(tmp_path, monkeypatch, service):
    tokens = secret(tmp_path / "tokens", TOKEN)
    one = service(secrets=Secrets(tokens=tokens))
    monkeypatch.setenv("ALEXPREP_TOKEN_FILE", str(tokens))

    for host in ("127.0.0.1", "localhost"):
        assert json.loads(Servers(f"grpc://{host}:{one.port}").act("status", patience=10))["state"] == "ready"


def test_a_token_for_this_machine_goes_through_no_proxy(tmp_path, monkeypatch, service):
    import socket

    tokens = secret(tmp_path / "tokens", TOKEN)
    one = service(secrets=Secrets(tokens=tokens))
    monkeypatch.setenv("ALEXPREP_TOKEN_FILE", str(tokens))
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.5)
        for name in ("http_proxy", "grpc_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert json.loads(Servers(f"grpc://127.0.0.1:{one.port}").act("status", patience=10))["state"] == "ready"
        with pytest.raises(TimeoutError):
            proxy.accept()


@pytest.mark.parametrize(
    ("text", "here"),
    [("127.0.0.1:1", True), ("127.9.9.9:1", True), ("[::1]:1", True), ("localhost:1", True), ("10.0.0.1:1", False), ("me.local:1", False)],
)
def test_no_name_is_looked_up_to_tell_whether_an_address_is_here(text, here):
    assert Address.parse(text).stays_here is here


@pytest.mark.parametrize(("mode", "said"), [(0o600, None), (0o640, None), (0o644, "read"), (0o604, "read"), (0o620, "change"), (0o666, "change")])
def test_a_file_of_tokens_that_others_can_read_is_warned_of(tmp_path, mode, said):
    path = secret(tmp_path / "tokens", TOKEN)
    path.chmod(mode)

    assert (said is None and exposed(path) is None) or f"others can {said} it; chmod 600" in exposed(path)


def test_server_and_client_warn_of_an_exposed_file_of_tokens(folder, tmp_path, started, monkeypatch):
    path = secret(tmp_path / "tokens", TOKEN)
    path.chmod(0o644)
    process, location = started(folder, "--tokens", path)
    logged = json.loads(process.stderr.readline())
    monkeypatch.setenv("ALEXPREP_TOKEN_FILE", str(path))

    assert (logged["level"], logged["event"]) == ("warning", "exposed")
    assert "mode 0644: others can read it" in logged["reason"]
    with pytest.warns(ExposedToken, match="chmod 600"):
        Servers(location).act("status", patience=10)


def test_a_token_is_compared_with_all_and_by_its_hash(tmp_path, monkeypatch):
    """So that the time says neither which of them it is, nor how much of it was right."""
    tokens = Tokens(secret(tmp_path / "tokens", "".join(f"{number:032x}\n" for number in range(7))))
    compared = []
    usual = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or usual(a, b))

    for header, good in ((f"Bearer {0:032x}", True), (f"Bearer {6:032x}", True), ("Bearer wrong", False), ("Basic", False), ("Bearer \ud800", False)):
        compared.clear()
        assert (tokens.hash_of(header) is not None) is good
        assert compared == [(32, 32)] * 7


@pytest.mark.parametrize("content", ["", "short\n", b"\xff\xfe\n", "# nothing\n", None, "a folder", "a device"])
def test_a_file_of_tokens_that_went_bad_changes_nothing(tmp_path, content):
    path = secret(tmp_path / "tokens", TOKEN)
    tokens = Tokens(path)
    path.unlink()
    if content == "a folder":
        path.mkdir()
    elif content == "a device":
        path.symlink_to("/dev/zero")
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises((DataError, OSError)):
        tokens.reread()
    assert tokens.hash_of(f"Bearer {TOKEN}")


def test_a_token_that_was_taken_back_ends_its_answers_on_their_way(tmp_path, service, monkeypatch, folder):
    path = secret(tmp_path / "tokens", f"{TOKEN}\n{OTHER}\n")
    one = service(secrets=Secrets(tokens=path))
    loader_config = Loader(str(folder), batch_size=64, crop=CROP).config
    ticket = Ticket(one.answers.digests["train"], "batches", 0, loader_config).to_bytes()
    monkeypatch.setattr("alexprep.pipeline.serving.protocol.CHUNK", 4 * 3 * CROP * CROP)  # a message an image
    client = flight.connect(one.location)
    readers = {
        token: client.do_get(flight.Ticket(ticket), flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())]))
        for token in (TOKEN, OTHER)
    }
    for reader in readers.values():
        reader.read_chunk()
    path.write_text(f"{OTHER}\n")
    one.tokens.reread()

    with pytest.raises(flight.FlightUnauthenticatedError, match="revoked"):
        readers[TOKEN].read_all()
    assert readers[OTHER].read_all().num_rows == 63


# A faulty server


class Faulty(flight.FlightServerBase):
    """A server that has the right manner of speaking, and the wrong things to say."""

    def __init__(self, good, change):
        super().__init__("grpc://127.0.0.1:0")
        self.good, self.change, self.asked = flight.connect(good.location), change, 0

    def do_get(self, _context, ticket):
        self.asked += 1
        table = self.good.do_get(ticket).read_all().combine_chunks()
        changed = self.change(table)
        return flight.RecordBatchStream(pa.Table.from_batches(changed.to_batches()))

    def do_action(self, _context, action):
        found = b"".join(result.body.to_pybytes() for result in self.good.do_action(action))
        return iter([found])


def with_column(name, make):
    return lambda table: table.set_column(table.schema.get_field_index(name), name, make(table[name]))


FAULTS = {
    "labels with nulls": with_column("label", lambda c: pa.array([None, *c.to_pylist()[1:]], pa.int64())),
    "records with nulls": with_column("record", lambda c: pa.array([None, *c.to_pylist()[1:]], pa.int64())),
    "images with nulls": with_column("image", lambda c: pa.array([None, *c.to_pylist()[1:]], pa.binary_view())),
    "labels as texts": with_column("label", lambda c: pa.array(map(str, c.to_pylist()))),
    "labels as floats": with_column("label", lambda c: c.cast(pa.float64())),
    "no labels": lambda table: table.drop_columns(["label"]),
    "no images": lambda table: table.drop_columns(["image"]),
    "other records": with_column("record", lambda c: pa.array([value + 1 for value in c.to_pylist()], pa.int64())),
    "fewer records": lambda table: table.slice(1),
    "labels that there are not": with_column("label", lambda c: pa.array([10**9] * len(c), pa.int64())),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_answer_leads_to_the_next_server(service, folder, fault):
    good = service()
    faulty = Faulty(good, FAULTS[fault])
    threading.Thread(target=faulty.serve, daemon=True).start()
    loader = Loader(f"grpc://127.0.0.1:{faulty.port},127.0.0.1:{good.port}", batch_size=16, crop=CROP, prefetch=1)
    ours, expected = list(loader), list(Loader(str(folder), batch_size=16, crop=CROP))

    assert faulty.asked
    assert len(ours) == len(expected)
    for mine, theirs in zip(ours, expected, strict=True):
        assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(mine, theirs, strict=True))
    faulty.shutdown()


@pytest.mark.parametrize(
    "files",
    [
        {"manifest.json": -1},
        {"manifest.json": "12"},
        {"manifest.json": None},
        {"manifest.json": 1 << 70},
        {"../x": 1},
        {"manifest.json": True},
        [],
        None,
    ],
    ids=str,
)
def test_absurd_lists_of_files_are_a_refusal_of_that_server(files):
    with pytest.raises(NotHere, match="as another release of alexprep would"):
        _files(json.dumps({"files": files, "identity": "x"}).encode())
    with pytest.raises(NotHere):
        _files(b"\xff")


def test_a_clients_mistake_is_counted_as_one_and_not_as_damage(service, folder):
    one = service()
    config = Loader(str(folder), batch_size=8, crop=CROP).config
    from dataclasses import replace

    many = Ticket(one.answers.digests["train"], "records", 0, replace(config, batch_size=4096)).to_bytes()
    with pytest.raises(flight.FlightServerError, match="fewer than one batch"):
        flight.connect(one.location).do_get(flight.Ticket(many)).read_all()

    totals = one.gauges.errors
    assert totals.labels("ticket")._value.get() == 1
    assert totals.labels("data")._value.get() == 0


def test_a_rest_that_a_server_asks_for_is_bounded():
    from alexprep.pipeline.storage.flight_client import LONGEST_REST, _facts

    def said(facts):
        error = ValueError()
        error.extra_info = json.dumps(facts).encode()
        return _facts(error)

    assert said({"kind": "busy", "retry_after": 1e12})["retry_after"] == LONGEST_REST
    assert said({"kind": "busy", "retry_after": "soon"}) == {}
    assert said([1, 2]) == {}
    assert os.environ.get("GRPC_VERBOSITY") == "NONE"
