"""Tickets are read or refused; messages are not too large."""

import json
from dataclasses import replace

import pytest
from alexprep.pipeline import LoaderConfig, read_manifest
from alexprep.pipeline.serving.protocol import FIELDS, Ticket, WrongTicket, shape_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ...support.serving import FORMS, configs


@given(st.binary(max_size=300))
def test_bytes_that_are_no_ticket_are_refused(garbage):
    with pytest.raises(WrongTicket):
        Ticket.parse(garbage)


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3))


@pytest.mark.process
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
