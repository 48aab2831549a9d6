"""The client of servers: whom it asks, for how long, and what it tells them."""

import contextlib
import json
import os
import re
import socket
import time

import pytest
from alexprep.pipeline import DataError
from alexprep.pipeline.storage.credentials import exposed
from alexprep.pipeline.storage.flight_client import NotHere, Servers
from alexprep.pipeline.storage.flight_fs import _files

from ...support.serving import TOKEN, secret


@pytest.mark.process
def test_servers_that_all_hang_are_given_up_in_time():
    """Sockets that take connections and say nothing: `patience` is what it says."""
    with contextlib.ExitStack() as held:
        hung = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        servers = Servers("grpc://" + ",".join(f"127.0.0.1:{one.getsockname()[1]}" for one in hung))
        start = time.monotonic()
        with pytest.raises(DataError, match="no server has answered for 2 s"):
            servers.act("status", patience=2)
        assert time.monotonic() - start < 6


@pytest.mark.parametrize("address", ["10.0.0.1:8815", "example.org:8815", "[2001:db8::1]:8815"])
def test_a_token_is_never_sent_in_clear_beyond_this_machine(tmp_path, monkeypatch, address):
    monkeypatch.setenv("ALEXPREP_TOKEN_FILE", str(secret(tmp_path / "token", TOKEN)))
    start = time.monotonic()

    with pytest.raises(DataError, match=rf"grpc://{re.escape(address)} is not encrypted.*use grpc\+tls://"):
        Servers(f"grpc://{address}").act("status", patience=20)
    assert time.monotonic() - start < 5  # nobody was asked


@pytest.mark.parametrize(("mode", "said"), [(0o600, None), (0o640, None), (0o644, "read"), (0o604, "read"), (0o620, "change"), (0o666, "change")])
def test_a_file_of_tokens_that_others_can_read_is_warned_of(tmp_path, mode, said):
    path = secret(tmp_path / "tokens", TOKEN)
    path.chmod(mode)

    assert (said is None and exposed(path) is None) or f"others can {said} it; chmod 600" in exposed(path)


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
    with pytest.raises(NotHere, match="of another release of alexprep"):
        _files(json.dumps({"files": files, "identity": "x"}).encode())
    with pytest.raises(NotHere):
        _files(b"\xff")


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
