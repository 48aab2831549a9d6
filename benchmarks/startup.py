"""Time to the first batch and memory of a long epoch, at the size of ImageNet and at eleven times that.

python benchmarks/startup.py [--records 1281167 14000000] [--steps 400] [--encoding jpeg]

The data set is one shard of drawn pictures under as many names as needed (links to one file), in the page cache. Each measurement has a new
process. Seconds count from the process's first line, without Python's own start: imports (mostly torch's), manifest, check of the shards, order
of the epoch, first batch. Memory comes from /proc/self/status: after the first batch, its maximum, and after all steps; anonymous (the process's
own) and file-backed (maps of the shards).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
from alexprep.pipeline import Records, ShardConfig, ShardJob, read_manifest
from alexprep.pipeline.config import Encoding
from alexprep.pipeline.inspection.demo_data import write_demo_data
from alexprep.pipeline.shards.writer import RecordRow, ShardWriter
from alexprep.pipeline.sources import find_source
from alexprep.pipeline.storage.files import file_sha256

ROWS = 4096

CHILD = """
import time; start = time.perf_counter()
import sys, json
from alexprep.pipeline import Loader
imported = time.perf_counter()
def memory():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")]
loader = Loader(sys.argv[1], batch_size=128, shuffle=sys.argv[3])
made, first = time.perf_counter(), None
for step, batch in enumerate(loader):
    if first is None:
        first, before, most = time.perf_counter(), memory(), memory()
    if step % 20 == 0:
        most = [max(pair) for pair in zip(most, memory())]
    if step == int(sys.argv[2]):
        break
print(json.dumps({"records": len(loader.records), "imports": imported - start, "loader": made - imported, "batch": first - made,
                  "total": first - start, "rate": step * 128 / (time.perf_counter() - first), "before": before, "most": most, "after": memory()}))
"""


def draw(folder: Path, encoding: Encoding) -> Path:
    """Make a data set of one shard with ROWS records by repeating the records of a small data set."""
    for _ in write_demo_data(folder / "drawn", 52, 8, 0):
        pass
    config = ShardConfig(encoding=encoding, records_per_shard=ROWS)
    job = ShardJob(find_source(folder / "drawn/train"), folder / "few", config, 0, 0.1)
    for _ in job.run():
        pass
    few, one = Records(read_manifest(folder / "few"), "train"), folder / "one"
    one.mkdir()
    name = few.shards[0].file
    old = pa.ipc.open_file(folder / "few" / name).schema
    with (one / name).open("wb") as file:
        writer = ShardWriter(file, old, encoding)
        numbers = [number % len(few) for number in range(ROWS)]
        for number in numbers:
            image = few.image(number)
            writer.append(
                RecordRow(image.tobytes() if encoding == "jpeg" else image, int(few.labels(np.array([number]))[0]), few.key(number), 400, 300)
            )
        writer.close()
    labels = few.labels(np.array(numbers)).tolist()
    shard = {"file": name, "rows": ROWS, "bytes": (one / name).stat().st_size, "sha256": file_sha256(one / name)}
    beside = json.loads((folder / "few" / f"{name}.json").read_text())
    beside["moments"]["images"] = ROWS
    (one / f"{name}.json").write_text(json.dumps(beside | shard | {"label_counts": dict(Counter(labels))}))
    (one / f"{name}.pixelsum.npy").hardlink_to(folder / "few" / f"{name}.pixelsum.npy")
    manifest = json.loads((folder / "few/manifest.json").read_text())
    manifest["splits"]["train"] |= {"shards": [shard], "records": ROWS}
    (one / "manifest.json").write_text(json.dumps(manifest))
    return one


def multiply(one: Path, folder: Path, records: int) -> Path:
    """Make a data set of at least this many records from the data set of one shard."""
    manifest = json.loads((one / "manifest.json").read_text())
    split = manifest["splits"]["train"]
    shards, made, total = split["shards"], [], 0
    folder.mkdir()
    while total < records:
        shard = shards[len(made) % len(shards)]
        name = f"train-{len(made):05}.arrow"
        for suffix in ("", ".pixelsum.npy"):
            (folder / (name + suffix)).hardlink_to(one / (shard["file"] + suffix))
        beside = json.loads((one / f"{shard['file']}.json").read_text())
        (folder / f"{name}.json").write_text(json.dumps(beside | {"file": name}))
        made.append(shard | {"file": name})
        total += shard["rows"]
    split["shards"], split["records"] = made, total
    (folder / "manifest.json").write_text(json.dumps(manifest))
    subprocess.run([Path(sys.executable).parent / "alexprep", "stats", folder, "--pca"], check=True, capture_output=True)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[1_281_167, 14_000_000])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--encoding", default="jpeg", choices=["jpeg", "raw"])
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs, Python {platform.python_version()}, {arguments.encoding} records, batch 128\n")
    times = f"{'imports':>8} {'loader':>7} {'batch':>6} {'total':>7}"
    print(f"{'records':>12} {'shuffle':<7} {times}   images/s   {'anonymous MiB':^21}   {'file-backed MiB':^21}")
    with tempfile.TemporaryDirectory() as name:
        one = draw(Path(name), arguments.encoding)
        for number, records in enumerate(arguments.records):
            folder = multiply(one, Path(name) / str(number), records)
            for shuffle in ("full", "block"):
                command = [sys.executable, "-c", CHILD, folder, str(arguments.steps), shuffle]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                times = f"{found['imports']:>7.2f}s {found['loader']:>6.2f}s {found['batch']:>5.2f}s {found['total']:>6.2f}s"
                memory = [" -> ".join(f"{found[when][kind]:.0f}" for when in ("before", "most", "after")) for kind in range(2)]
                print(f"{found['records']:>12,} {shuffle:<7} {times}   {found['rate']:>8.0f}   {memory[0]:^21}   {memory[1]:^21}", flush=True)


if __name__ == "__main__":
    main()
