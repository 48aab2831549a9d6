"""JPEG and raw records -> batches of 224x224 views on a GPU: ours, DALI as usually written, torchvision's DataLoader, alternating in one run.

python benchmarks/gpu.py [--src FOLDER] [--copies 8] [--rounds 3] [--seconds 2] [--batch 128] [--json FILE]

FOLDER holds images as `alexprep shard` takes them; without it, pictures are drawn. All contestants read the same records from the page cache (the
peers as files), use as many threads or worker processes as there are CPUs, and put random crops, mirrored and normalised, on the device. Ours
includes PCA colour, which no peer has. "DALI alone" decodes on the GPU and draws its own random numbers. torchvision decodes on the CPU
(decode_jpeg), pins and copies; it needs torchvision for this torch. "copied" is a limit: stored records copied from pinned memory to the device.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from alexprep.cli.alexprep.bench import copying
from alexprep.pipeline import Loader, ShardConfig, ShardJob, compute_stats, read_manifest
from alexprep.pipeline.config import Encoding
from alexprep.pipeline.inspection.demo_data import write_demo_data
from alexprep.pipeline.preparation.export import export
from alexprep.pipeline.sources import find_source

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from environments import link

CPUS = len(os.sched_getaffinity(0))
WARM_UP = 30  # batches
Batches = Callable[[], Iterator[int]]  # endless; yields the size of each batch on the device


def shards(src: Path, folder: Path, encoding: Encoding) -> Path:
    job = ShardJob(find_source(src), folder, ShardConfig(encoding=encoding), CPUS, 0.1)
    for _ in job.run():
        pass
    return folder


def ours(data: Path, **options: Any) -> Iterator[int]:  # noqa: ANN401  (fields of LoaderConfig)
    loader = Loader(data, stats=compute_stats(read_manifest(data)), **options)
    while True:
        for batch in loader:
            yield len(batch.images.cuda())


def dali_alone(records: Path, batch: int, prefetch: int) -> Iterator[int]:
    from dali_loader import graph
    from nvidia.dali.plugin.pytorch import DALIClassificationIterator, LastBatchPolicy

    pipeline = graph(records=str(records), device="mixed", batch_size=batch, num_threads=CPUS, device_id=0, seed=1, prefetch_queue_depth=prefetch)
    batches = DALIClassificationIterator(pipeline, reader_name="reader", last_batch_policy=LastBatchPolicy.DROP, auto_reset=True)
    while True:
        for (one,) in batches:
            yield len(one["data"])


def torchvision(records: Path, batch: int) -> Iterator[int]:
    from torch.utils.data import DataLoader
    from torchvision_loader import Records

    options = {"num_workers": CPUS, "shuffle": True, "drop_last": True, "persistent_workers": True, "pin_memory": True, "prefetch_factor": 4}
    batches = DataLoader(Records(records, pil=False), batch_size=batch, **options)
    while True:
        for images, _ in batches:
            yield len(images.cuda(non_blocking=True))


def rate(batches: Batches, seconds: float) -> float:
    """Return images/s after warm-up."""
    running = batches()
    for _ in islice(running, WARM_UP):
        pass
    torch.cuda.synchronize()
    images, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        images += next(running)
    torch.cuda.synchronize()
    found = images / (time.perf_counter() - start)
    running.close()  # type: ignore[attr-defined]
    return found


def contestants(jpeg: Path, raw: Path, records: Path, batch: int) -> dict[str, Batches]:
    field: dict[str, Batches] = {}
    for encoding, data in (("jpeg", jpeg), ("raw", raw)):
        for layout, dtype in (("CHW", "float32"), ("channels_last", "float32"), ("channels_last", "float16"), ("channels_last", "bfloat16")):
            field[f"{encoding} {layout} {dtype}"] = partial(ours, data, batch_size=batch, device="gpu", layout=layout, dtype=dtype)
        field[f"{encoding} made on the CPU, copied, bfloat16"] = partial(ours, data, batch_size=batch, dtype="bfloat16", layout="channels_last")
    field["DALI alone, jpeg CHW float32"] = partial(dali_alone, records, batch, 2)
    try:
        import torchvision as _  # noqa: F401
    except (ImportError, RuntimeError) as error:
        print(f"no torchvision: {error}", file=sys.stderr)
    else:
        field["torchvision, jpeg CHW float32"] = partial(torchvision, records, batch)
    return field


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", type=Path)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("needs an NVIDIA GPU and a torch built for it; alexprep doctor says what is missing")
    place = f"{torch.cuda.get_device_name()}, {CPUS} CPUs, Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{place}; batches of {chosen.batch}\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        src = chosen.src or folder / "drawn"
        if chosen.src is None:
            for _ in write_demo_data(src, 200, 20, 0):
                pass
        link((path for path in sorted(src.rglob("*")) if path.is_file()), src, folder / "src", chosen.copies)
        data = {encoding: shards(folder / "src", folder / encoding, encoding) for encoding in ("jpeg", "raw")}
        for _ in export(read_manifest(data["jpeg"]), folder / "records", "imagefolder"):
            pass
        field = contestants(data["jpeg"], data["raw"], folder / "records/train", chosen.batch)
        rates: dict[str, list[float]] = {name: [] for name in field}
        for _ in range(chosen.rounds):
            for name, batches in field.items():
                rates[name].append(rate(batches, chosen.seconds))
                print(f"{name}: {rates[name][-1]:,.0f}", file=sys.stderr, flush=True)
        bare = {"batch_size": chosen.batch, "mean": "none", "colour": 0}
        limits = {encoding: copying(Loader(where, **bare), chosen.seconds) for encoding, where in data.items()}
    last = next(reversed(rates))
    for name, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(found, rates[last], strict=True))
        spread = f"{min(found):,.0f} - {max(found):,.0f}"
        print(f"{name:<44} {statistics.median(found):>9,.0f} images/s {spread:>19} {ratio:>6.2f} times {last.partition(',')[0]}")
    for encoding, limit in limits.items():
        print(f"{encoding + ' records copied to the device only':<44} {limit:>9,.0f} images/s")
    if chosen.json:
        chosen.json.write_text(json.dumps({"place": place, "rates": rates, "copied": limits}, indent=1) + "\n")


if __name__ == "__main__":
    main()
