"""Write and read predictions as parquet, one row per record."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from alexprep.model.evaluation.evaluator import FIVE, Predictions
from alexprep.pipeline import DataError, Records
from alexprep.pipeline.storage.files import published


def write_predictions(path: Path, found: Predictions, records: Records, facts: dict[str, Any]) -> None:
    """Publish predictions as parquet, one row per record, with its key. `facts` (split, views, plan, step) go into the schema's metadata."""
    keys = records.keys()
    keys = keys.take(pa.array(found.records.numpy())) if len(found.records) else keys.slice(0, 0)
    columns = {
        "record": pa.array(found.records.numpy()),
        "key": keys,
        "label": pa.array(found.labels.numpy()),
        "best": pa.FixedSizeListArray.from_arrays(pa.array(found.best.numpy().ravel()), found.best.shape[1]),
        "p": pa.FixedSizeListArray.from_arrays(pa.array(found.p.numpy().ravel()), found.p.shape[1]),
        "true_p": pa.array(found.true_p.numpy()),
    }
    table = pa.table(columns).replace_schema_metadata({"alexprep": json.dumps(facts | {"classes": list(records.manifest.classes)})})
    with published(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_predictions(path: Path) -> tuple[Predictions, dict[str, Any]]:
    """Return the predictions and facts in a file of `write_predictions`; DataError if invalid."""
    try:
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {})[b"alexprep"])
        count, classes = len(table), len(facts["classes"])
        k = min(FIVE, classes)
        wide = {name: torch.from_numpy(table[name].combine_chunks().flatten().to_numpy().copy()).reshape(count, k) for name in ("best", "p")}
        flat = {name: torch.from_numpy(table[name].to_numpy().copy()) for name in ("record", "label", "true_p")}
        found = Predictions(flat["record"], flat["label"], wide["best"], wide["p"], flat["true_p"])
        kinds = [values.dtype for values in (found.records, found.labels, found.best, found.p, found.true_p)]
        if kinds != [torch.int64] * 3 + [torch.float32] * 2 or not isinstance(facts.get("split"), str):
            raise ValueError("its columns or facts are of other types")
        named = torch.cat([found.best.flatten(), found.labels])
        if count and not 0 <= int(named.min()) <= int(named.max()) < classes:
            raise ValueError("a label is outside its classes")
    except Exception as error:  # a damaged file may raise anything
        raise DataError(
            f"{path} is not a predictions file of alextrain, or it is damaged: {error}; alextrain eval --predictions writes them"
        ) from error
    return found, facts
