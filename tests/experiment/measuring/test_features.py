"""Files of last hidden vectors."""

import pyarrow.parquet as pq

from ...support.commands import called


def test_features_are_written_a_row_a_record(run):
    done = called("alextrain", "features", "--data", run / "shards", "--checkpoint", run / "run", "--out", run / "features.parquet")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(run / "features.parquet")

    assert table["record"].to_pylist() == list(range(17))
    assert [key.split("/")[1] for key in table["key"].to_pylist()] == [("ant", "bee")[label] for label in table["label"].to_pylist()]
    assert len(table["features"][0]) == table.schema.field("features").type.list_size > 0
