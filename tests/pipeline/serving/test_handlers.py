"""What a server answers, and what it refuses."""

import json

import numpy as np
import pyarrow as pa
import pytest
from alexprep.pipeline import Records, load_stats, read_manifest
from alexprep.pipeline.serving.handlers import RequestHandler
from alexprep.pipeline.serving.protocol import Ticket
from pyarrow import flight

from ...support.commands import command
from ...support.serving import ticket_of


@pytest.mark.process
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
