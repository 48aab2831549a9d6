"""Files of predictions."""

from dataclasses import replace

import pytest
import torch
from alexprep.experiment.measuring.predictions import read_predictions, write_predictions
from alexprep.pipeline import DataError, Records, read_manifest


def test_predictions_are_read_back_and_damage_is_named(run, tmp_path):
    manifest = read_manifest(run / "shards")
    found, facts = read_predictions(run / "run" / "predictions.parquet")
    assert (facts["split"], facts["views"], facts["plan"]) == ("val", 10, manifest.plan)
    assert found.records.tolist() == list(range(17))

    write_predictions(tmp_path / "again.parquet", found, Records(manifest, "val"), {"split": "val"})
    again, _ = read_predictions(tmp_path / "again.parquet")
    assert torch.equal(again.p, found.p)
    write_predictions(tmp_path / "beyond.parquet", replace(found, labels=found.labels + 9), Records(manifest, "val"), {"split": "val"})
    (tmp_path / "no.parquet").write_bytes(b"PAR1 no")
    for name, message in (("beyond", "outside its classes"), ("no", "is not a predictions file")):
        with pytest.raises(DataError, match=message):
            read_predictions(tmp_path / f"{name}.parquet")
