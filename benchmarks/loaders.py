"""256x256 records -> batches of 224x224 views: ours, the peers, and three limits, alternating on the same records in one run.

python benchmarks/loaders.py --install [--venvs DIR]      # once: an environment for each peer, by pip
python benchmarks/loaders.py [--src FOLDER] [--copies 4] [--rounds 3] [--venvs DIR] [--json FILE] [--plot FILE.png]

FOLDER holds images as `alexprep shard` takes them; without it, pictures are drawn. They are sharded as JPEG and as raw records; for the peers, the
JPEG records are also written as files, byte for byte. Every contestant gives batches of 128 in torch: random crop of 224, mirror, normalised,
float32 unless stated otherwise. Ours includes PCA colour, which no peer has. There are as many threads or worker processes as CPUs, and the
records are in the page cache. One epoch warms up. "limit" is the rate as a share of the limit measured in the same round: for raw records,
torch's conversion alone of as many bytes from uint8 to float32; for JPEG, libjpeg-turbo's decoding alone of whole records. "region", for our JPEG
rows only, is the share of a harder limit: our own decoder on a random 224x224 region of each record, with as many threads as CPUs and nothing
done to the pixels; the goal is at least 0.90. "first batch" is the time from making the iterator to its first batch. FFCV and SPDL need
libraries that pip does not install: on Debian, first `apt-get install g++ libopencv-dev libturbojpeg0-dev pkg-config ffmpeg`.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexprep.pipeline.inspection.demo_data import write_demo_data
from peers.environments import QUIET, Peer, install_all, last_line, link, missing, options, versions_in

HERE = Path(__file__).parent
CPUS = len(os.sched_getaffinity(0))
BATCH, SECONDS, LIMIT = 128, 4, 300
PEERS = (
    Peer("FFCV", "ffcv_loader.py"),
    Peer("torchvision", "torchvision_loader.py"),
    Peer("timm", "timm_loader.py"),
    Peer("SPDL", "spdl_loader.py"),
    Peer("WebDataset", "wds_loader.py"),
    Peer("MosaicML Streaming", "mds_loader.py"),
    Peer("LitData", "litdata_loader.py"),
)
KINDS = {
    "alexprep": (
        *("jpeg CHW", "jpeg channels_last", "jpeg CHW bfloat16", "raw CHW", "raw channels_last", "raw CHW bfloat16", "raw CHW float16"),
        *("conversion", "decoding", "decoding regions"),
    ),
    "DALI alone": ("jpeg",),
    "FFCV": ("jpeg CHW", "jpeg channels_last", "raw CHW", "raw channels_last"),
    "torchvision": ("jpeg PIL", "jpeg decode_jpeg"),
    "timm": ("jpeg",),
    "SPDL": ("jpeg",),
    "WebDataset": ("jpeg",),
    "MosaicML Streaming": ("jpeg",),
    "LitData": ("jpeg",),
}


@dataclass
class Contestant:
    name: str
    python: Path
    script: str
    versions: dict[str, str]
    failure: str = ""


def run(contestant: Contestant, *arguments: object) -> str:
    command = [contestant.python, HERE / "peers" / contestant.script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | QUIET, timeout=LIMIT, check=False)
    if done.returncode:
        raise RuntimeError(last_line(done.stderr) or f"exit status {done.returncode}")
    return last_line(done.stdout)


def contestants(venvs: Path) -> list[Contestant]:
    mine = versions_in(Path(sys.executable), ["alexprep", "torch", "numpy", "simplejpeg"])
    found = [Contestant("alexprep", Path(sys.executable), "alexprep_loader.py", mine)]
    dali = [name for name in ("nvidia-dali-cuda120", "nvidia-dali-cuda130") if _installed(name)]
    found.append(
        Contestant("DALI alone", Path(sys.executable), "dali_loader.py", versions_in(Path(sys.executable), dali), "" if dali else "not installed")
    )
    for peer in PEERS:
        venv = venvs / peer.folder
        failure = missing(venv)
        found.append(
            Contestant(peer.name, venv / "bin/python", peer.script, {} if failure else versions_in(venv / "bin/python", peer.reported), failure)
        )
    return found


def _installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def make_records(src: Path, folder: Path) -> int:
    """Make the shards "jpeg" and "raw", and the folder "records" with the JPEG records as files; return the number of records."""
    alexprep = Path(sys.executable).parent / "alexprep"
    for encoding in ("jpeg", "raw"):
        command = [alexprep, "shard", "--src", src, "--out", folder / "shards" / encoding, "--encoding", encoding, "--max-bad", "0.05"]
        subprocess.run(command, check=True, capture_output=True)
        subprocess.run([alexprep, "stats", folder / "shards" / encoding, "--pca"], check=True, capture_output=True)
    subprocess.run([alexprep, "export", folder / "shards/jpeg", "--to", "imagefolder", "--out", folder / "records"], check=True, capture_output=True)
    return sum(path.is_file() for path in (folder / "records/train").rglob("*"))


def compete(field: list[Contestant], folder: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    results: dict[str, list[dict[str, float]]] = defaultdict(list)
    for contestant in field:
        if not contestant.failure:
            try:
                run(contestant, "prepare", folder / "records/train", folder / contestant.name)
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                contestant.failure = f"failed to write: {error}"
    for number in range(rounds):
        turn = number % len(field)
        for contestant in field[turn:] + field[:turn]:
            for kind in KINDS[contestant.name]:
                if contestant.failure:
                    break
                out = folder / ("shards" if contestant.name == "alexprep" else contestant.name)
                try:
                    result = json.loads(run(contestant, "load", out, kind, CPUS, BATCH, SECONDS))
                except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
                    contestant.failure = f"failed: {error}"
                    break
                results[f"{contestant.name}, {kind}"].append(result)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return results


def rows(results: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Compute medians, and each row's share of its limits, round by round."""
    limits = {"raw": results.get("alexprep, conversion"), "jpeg": results.get("alexprep, decoding")}
    table = []
    for name, runs in results.items():
        rates = [one["images_per_second"] for one in runs]
        share = share_of(limits.get(name.split(", ")[1].split()[0]), rates)
        region = share_of(results.get("alexprep, decoding regions"), rates) if name.startswith("alexprep, jpeg") else None
        first = statistics.median(one["first_batch"] for one in runs)
        table.append({"name": name, "rate": statistics.median(rates), "rates": rates, "share": share, "region": region, "first_batch": first})
    return table


def share_of(limit: list[dict[str, float]] | None, rates: list[float]) -> float | None:
    return statistics.median(rate / one["images_per_second"] for rate, one in zip(rates, limit, strict=False)) if limit else None


def plot(table: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    _, axes = plt.subplots(1, 2, figsize=(13, 4.5))
    for axis, encoding, limit in zip(axes, ("raw", "jpeg"), ("conversion", "decoding"), strict=True):
        bars = [row for row in table if row["name"].split(", ")[1].split()[0] in (encoding, limit)][::-1]
        colours = ["#b23a48" if row["name"].startswith("alexprep") else "#8d99ae" for row in bars]
        colours = ["#2b2d42" if f", {limit}" in row["name"] else colour for row, colour in zip(bars, colours, strict=True)]
        axis.barh([row["name"].replace(f"alexprep, {limit}", f"bare {limit}") for row in bars], [row["rate"] for row in bars], color=colours)
        axis.set(xlabel=f"images/s, {CPUS} CPUs", title=f"{encoding} records")
    plt.tight_layout()
    plt.savefig(path, dpi=120)


def main() -> None:
    parser = options(__doc__, "class folders")
    parser.add_argument("--plot", type=Path, help="file for a bar chart")
    arguments = parser.parse_args()
    venvs = arguments.venvs.expanduser().absolute()
    if arguments.install:
        sys.exit(install_all(PEERS, venvs))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        src = arguments.src.absolute() if arguments.src else folder / "drawn/train"
        if arguments.src is None:
            for _ in write_demo_data(folder / "drawn", 60, 10, 0):
                pass
        link((path for path in sorted(src.rglob("*")) if path.is_file()), src, folder / "src", arguments.copies)
        count = make_records(folder / "src", folder)
        field = contestants(venvs)
        results = compete(field, folder, arguments.rounds)
    table = rows(results)
    print(f"{platform.machine()}, {CPUS} CPUs, Python {platform.python_version()}; {count} records, batch {BATCH}, {arguments.rounds} rounds\n")
    print(f"{'':<38} {'images/s':>8}  {'min - max':^15} {'limit':>6} {'region':>6} {'first batch':>12}")
    for row in table:
        spread = f"{min(row['rates']):.0f} - {max(row['rates']):.0f}"
        limit, region = ("" if row[key] is None else f"{row[key]:.2f}" for key in ("share", "region"))
        print(f"{row['name']:<38} {row['rate']:>8.0f}  {spread:^15} {limit:>6} {region:>6} {row['first_batch']:>10.2f} s")
    for one in field:
        print(f"{one.name}: {one.failure or ', '.join(f'{package} {number}' for package, number in one.versions.items())}")
    if arguments.json:
        facts = {"cpus": CPUS, "records": count, "table": table, "versions": {one.name: one.versions for one in field}}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    if arguments.plot:
        plot(table, arguments.plot)


if __name__ == "__main__":
    main()
