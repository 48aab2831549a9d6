"""Tokens are kept: by whom they are read, to whom they are sent, and when they are taken back."""

import json
import socket

import pytest
from alexprep.pipeline import DataError, Loader
from alexprep.pipeline.serving.auth import Secrets, Tokens, hmac
from alexprep.pipeline.serving.protocol import Ticket
from alexprep.pipeline.storage.credentials import ExposedToken
from alexprep.pipeline.storage.flight_client import Servers
from pyarrow import flight

from ...support.serving import SMALL_CROP, TOKEN, secret

OTHER = TOKEN.upper()


def test_to_a_program_of_this_machine_a_token_may_go_in_clear(tmp_path, monkeypatch, service):
    tokens = secret(tmp_path / "tokens", TOKEN)
    one = service(secrets=Secrets(tokens=tokens))
    monkeypatch.setenv("ALEXPREP_TOKEN_FILE", str(tokens))

    for host in ("127.0.0.1", "localhost"):
        assert json.loads(Servers(f"grpc://{host}:{one.port}").act("status", patience=10))["state"] == "ready"


def test_a_token_for_this_machine_goes_through_no_proxy(tmp_path, monkeypatch, service):
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


@pytest.mark.process
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
    loader_config = Loader(str(folder), batch_size=64, crop=SMALL_CROP).config
    ticket = Ticket(one.answers.digests["train"], "batches", 0, loader_config).to_bytes()
    monkeypatch.setattr("alexprep.pipeline.serving.protocol.CHUNK", 4 * 3 * SMALL_CROP * SMALL_CROP)  # a message an image
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


def test_a_token_is_compared_whole(tmp_path):
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    tokens = Tokens(tmp_path / "tokens")

    assert tokens.hash_of(f"Bearer {TOKEN}")
    assert tokens.hash_of(f"bearer  {TOKEN} ")
    for wrong in (TOKEN, f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer ", f"Basic {TOKEN}", "Bearer é"):
        assert tokens.hash_of(wrong) is None
