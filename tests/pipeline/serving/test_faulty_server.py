"""A faulty server leads to the next one."""

import threading

import numpy as np
import pyarrow as pa
import pytest
from alexprep.pipeline import Loader
from pyarrow import flight

from ...support.serving import SMALL_CROP


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
    loader = Loader(f"grpc://127.0.0.1:{faulty.port},127.0.0.1:{good.port}", batch_size=16, crop=SMALL_CROP, prefetch=1)
    ours, expected = list(loader), list(Loader(str(folder), batch_size=16, crop=SMALL_CROP))

    assert faulty.asked
    assert len(ours) == len(expected)
    for mine, theirs in zip(ours, expected, strict=True):
        assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(mine, theirs, strict=True))
    faulty.shutdown()
