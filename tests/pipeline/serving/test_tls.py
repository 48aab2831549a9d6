"""TLS: beyond loopback it is needed, and of mutual TLS only its clients are answered."""

import contextlib
import json
import signal
import threading
import time

import pytest
from alexprep.pipeline import DataError, Loader
from alexprep.pipeline.addresses import Address
from alexprep.pipeline.serving.auth import Secrets
from alexprep.pipeline.storage.flight_client import Servers

from ...support.commands import command
from ...support.serving import CROP, TOKEN, certificates, secret, the_same
from ...support.shards import stream

pytestmark = pytest.mark.process


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
