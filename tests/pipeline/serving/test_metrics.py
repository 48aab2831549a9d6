"""Probes, metrics and the log."""

import contextlib
import json
import socket
from dataclasses import replace

import pytest
from alexprep.pipeline import Loader
from alexprep.pipeline.serving.protocol import Ticket
from pyarrow import flight

from ...support.commands import command
from ...support.serving import CROP, SMALL_CROP
from ...support.shards import stream


@pytest.mark.process
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


@pytest.mark.process
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


def test_a_clients_mistake_is_counted_as_one_and_not_as_damage(service, folder):
    one = service()
    config = Loader(str(folder), batch_size=8, crop=SMALL_CROP).config

    many = Ticket(one.answers.digests["train"], "records", 0, replace(config, batch_size=4096)).to_bytes()
    with pytest.raises(flight.FlightServerError, match="fewer than one batch"):
        flight.connect(one.location).do_get(flight.Ticket(many)).read_all()

    totals = one.gauges.errors
    assert totals.labels("ticket")._value.get() == 1
    assert totals.labels("data")._value.get() == 0
