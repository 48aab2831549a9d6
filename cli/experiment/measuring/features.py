"""Write the last hidden layer of a split as a parquet file, and find nearest neighbours in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from alexprep.model.distributed import Ranks
from alexprep.model.evaluation.neighbours import Neighbours, features, nearest
from alexprep.pipeline import Manifest
from alexprep.pipeline.storage.files import published

from ..progress import Progress, Silent
from .evaluate import Trained, watched


def write_features(
    checkpoint: Path, manifest: Manifest, split: str, ranks: Ranks, cache: dict[str, Any], out: Path, progress: Progress = Silent
) -> tuple[int, int]:
    """Publish the features of a split's centre views; return their count and their width."""
    trained = Trained.load(checkpoint, ranks, None)
    trained.check(manifest)
    loader = trained.loader(manifest.directory, split, 1, ranks, cache)
    keys = loader.records.keys()
    count = width = 0
    with published(out) as file:
        writer: pq.ParquetWriter | None = None
        for values, labels, numbers in features(trained.model, watched(loader, "features", progress)):
            width = values.shape[1]
            listed = pa.FixedSizeListArray.from_arrays(pa.array(values.cpu().numpy().ravel()), width)
            record = pa.array(numbers.cpu().numpy())
            columns = [record, keys.take(record), pa.array(labels.cpu().numpy()), listed]
            table = pa.table(columns, names=["record", "key", "label", "features"])
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
            count += len(numbers)
        if writer is not None:
            writer.close()
    return count, width


def neighbours(
    trained: Trained,
    manifest: Manifest,
    queries: tuple[str, Sequence[int]],
    among: str,
    count: int,
    ranks: Ranks,
    cache: dict[str, Any],
    progress: Progress = Silent,
) -> Neighbours:
    """Return the `count` records of split `among` that are nearest to each query.

    queries   (split, record numbers)
    """
    split, numbers = queries
    found = dict.fromkeys(numbers, torch.empty(0))
    loader = trained.loader(manifest.directory, split, 1, ranks, cache)
    size = loader.config.batch_size
    # evaluation is in stored order, so a record's batch is known
    for batch in sorted({number // size for number in numbers}):
        loader.load_state_dict({"step": batch})
        values, _, records = next(features(trained.model, loader))
        found |= {number: values[i] for i, number in enumerate(records.tolist()) if number in found}
    wanted = torch.stack([found[number] for number in numbers])
    searched = watched(trained.loader(manifest.directory, among, 1, ranks, cache), "search", progress)
    return nearest(wanted, features(trained.model, searched), count)
