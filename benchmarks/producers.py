"""Folders of JPEGs -> 256x256 records: `alexprep shard`, its bare kernels, and the peers, alternating on the same files in one run.

python benchmarks/producers.py --install [--venvs DIR]      # once: an environment for each peer, by pip
python benchmarks/producers.py [--src FOLDER] [--copies 4] [--rounds 3] [--venvs DIR] [--json FILE]

FOLDER holds train/<class>/* and val/<class>/*, or <class>/*; without it, pictures are drawn. Files that are not images are left out, because
the peers stop at them. The others are hard-linked --copies times, so that a run takes a few seconds. All contestants use as many processes as
there are CPUs. FFCV is compiled: on Debian, first `apt-get install g++ libopencv-dev libturbojpeg0-dev pkg-config`.

Measurements:
  alexprep shard, whole command   from the command to the prompt: Python's start, imports, workers, statistics, fsync
  alexprep shard, after imports   the same runs by the "seconds" that --json prints; the peers are timed in the same way
  peers                           time inside the process, without imports; the code in benchmarks/peers/, with Pillow for the images
  bare kernels                    decode, resize, crop and encode, from memory, output discarded: with the usual libraries, and with ours
  4:2:0                           the format of all peers, because Pillow uses it by default; our default is 4:4:4
The column "to ours" is the ratio to the first row, round by round. "without start-up" is the slope between all files and about a quarter of them,
which is the rate of a long job. "CPU ms" is that slope in processor time of all processes together, per image. "others" is the share
of the machine's processor time that other programs took during the runs. Above a few percent, trust only "CPU ms", and that only a little.
"""

import ctypes
import json
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from alexprep.pipeline.config import Subsampling
from alexprep.pipeline.imaging.codec import decode, square, use_one_thread
from alexprep.pipeline.imaging.kernels import encode_jpeg
from alexprep.pipeline.inspection.demo_data import write_demo_data
from peers.environments import QUIET, Peer, install_all, last_line, link, missing, options, versions_in
from PIL import Image

HERE = Path(__file__).parent
CPUS = len(os.sched_getaffinity(0))
PR_SET_CHILD_SUBREAPER = 36  # makes orphaned descendants children of this process
LIMIT = 900  # seconds per run: FFCV's writer waits forever for a worker that died
PEERS = (
    Peer("FFCV DatasetWriter", "ffcv_writer.py"),
    Peer("LitData optimize", "litdata_optimize.py"),
    Peer("MosaicML MDSWriter, process pool", "mds_writer.py"),
    Peer("WebDataset ShardWriter, process pool", "wds_writer.py"),
)


@dataclass
class Run:
    images: int
    seconds: float
    after_imports: float | None = None
    cpu: float = 0
    others: float = 0  # share of the machine's processor time that other programs took meanwhile


@dataclass
class Contestant:
    name: str
    convert: Callable[[Path, Path], Run]
    versions: dict[str, str]
    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))  # for "all" files and for the "few"
    failure: str = ""


# The files to convert


def usable(path: Path) -> bool:
    """Return whether both Pillow, which the peers use, and our own decoder open it."""
    try:
        decode(path.read_bytes())
        with Image.open(path) as image:
            image.convert("RGB")
    except Exception:
        return False
    return True


def prepare(src: Path, folder: Path, copies: int) -> dict[str, Path]:
    """Make the folders "all" and "few" from the usable files of `src`."""
    files = [path for path in sorted(src.rglob("*")) if path.is_file() and usable(path)]
    if not files:
        raise SystemExit(f"no images in {src}")
    folders = {"all": folder / "all", "few": folder / "few"}
    link(files, src, folders["all"], copies)
    link(files[:: max(1, 4 // copies)], src, folders["few"], max(1, copies // 4))
    return folders


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# The contestants


def call(command: Sequence[str | Path], out: Path) -> str:
    """Run it and return its stdout; after the time limit or a failure, none of its processes survives."""
    scratch = {"TMPDIR": str(out.parent), "DATA_OPTIMIZER_CACHE_FOLDER": str(out.parent / "cache")}
    environment = os.environ | QUIET | scratch
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True, cwd=out.parent
    )
    try:
        stdout, stderr = process.communicate(timeout=LIMIT)
    finally:
        if process.returncode != 0:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    with suppress(ChildProcessError):
        while os.waitpid(-1, 0):  # its orphans are our children now: waiting for them counts their processor time
            pass
    if process.returncode:
        raise RuntimeError(last_line(stderr) or f"exit status {process.returncode}")
    return stdout


def ours(*wanted: str) -> Callable[[Path, Path], Run]:
    executable = Path(sys.executable).parent / "alexprep"

    def convert(src: Path, out: Path) -> Run:
        start = time.perf_counter()
        done = json.loads(call([executable, "shard", "--src", src, "--out", out, *wanted, "--json"], out))
        seconds = time.perf_counter() - start
        return Run(sum(split["records"] for split in done["splits"].values()), seconds, done["seconds"])

    return convert


def theirs(python: Path, script: str) -> Callable[[Path, Path], Run]:
    def convert(src: Path, out: Path) -> Run:
        done = json.loads(last_line(call([python, HERE / "peers" / script, src, out, str(CPUS)], out)))
        return Run(done["images"], done["seconds"])

    return convert


def of_libraries(data: bytes) -> None:
    """Decode with libjpeg-turbo, shrink with OpenCV, encode with libjpeg-turbo."""
    image = simplejpeg.decode_jpeg(data, "RGB") if data.startswith(b"\xff\xd8") else decode(data)
    short = min(image.shape[:2])
    height, width = (int(side * 256 / short + 0.5) for side in image.shape[:2])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if short > 256 else cv2.INTER_CUBIC)
    top, left = (height - 256) // 2, (width - 256) // 2
    simplejpeg.encode_jpeg(np.ascontiguousarray(image[top : top + 256, left : left + 256]), 95, "RGB", "444")


def of_ours(data: bytes, subsampling: Subsampling = "444") -> None:
    encode_jpeg(square(data, 256).pixels, 95, subsampling)


def kernels(work_on: Callable[[bytes], None], src: Path, _out: Path) -> Run:
    """Each process takes the next image when it finishes one, so that all end together."""
    files = [path.read_bytes() for path in files_of(src)]
    context = multiprocessing.get_context("fork")  # the processes share `files`
    barrier, taken = context.Barrier(CPUS + 1), context.Value("q", 0)

    def work() -> None:
        use_one_thread()
        barrier.wait()
        while True:
            with taken.get_lock():
                index = taken.value
                taken.value += 1
            if index >= len(files):
                break
            work_on(files[index])
        barrier.wait()

    processes = [context.Process(target=work) for _ in range(CPUS)]
    for process in processes:
        process.start()
    barrier.wait()
    start = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - start
    for process in processes:
        process.join()
    return Run(len(files), seconds)


def contestants(venvs: Path) -> list[Contestant]:
    names = ("alexprep", "simplejpeg", "opencv-python-headless", "pyarrow", "numpy")
    mine = {"python": platform.python_version()} | {name: version(name) for name in names}
    found = [
        Contestant("alexprep shard, jpeg", ours(), mine),
        Contestant("alexprep shard, jpeg 4:2:0", ours("--subsampling", "420"), mine),
        Contestant("alexprep shard, raw", ours("--encoding", "raw"), mine),
        Contestant("bare kernels of libjpeg-turbo and OpenCV", partial(kernels, of_libraries), mine),
        Contestant("bare kernels of alexprep", partial(kernels, of_ours), mine),
        Contestant("bare kernels of alexprep, 4:2:0", partial(kernels, partial(of_ours, subsampling="420")), mine),
    ]
    for peer in PEERS:
        venv = venvs / peer.folder
        python, failure = venv / "bin/python", missing(venv)
        found.append(Contestant(peer.name, theirs(python, peer.script), {} if failure else versions_in(python, peer.reported), failure=failure))
    return found


# The measurement


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # sum over all descendants that were waited for
    return used.ru_utime + used.ru_stime


def busy_seconds() -> float:
    """Return the processor time that the whole machine has used since it started."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def measure(contestant: Contestant, src: Path, folder: Path) -> Run | None:
    """Run one conversion. A contestant that failed once is not run again."""
    if contestant.failure:
        return None
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as scratch:
        before, busy, start = cpu_seconds(), busy_seconds(), time.perf_counter()
        try:
            run = contestant.convert(src, Path(scratch) / "out")
        except (OSError, RuntimeError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
            contestant.failure = f"failed: {error}"
            return None
        run.cpu = cpu_seconds() - before
        run.others = max(0, busy_seconds() - busy - run.cpu) / (time.perf_counter() - start) / (os.cpu_count() or 1)
    expected = len(files_of(src))
    if run.images != expected:
        contestant.failure = f"failed: {run.images} records of {expected} images"
        return None
    return run


def compete(field_: list[Contestant], folders: dict[str, Path], rounds: int, folder: Path) -> None:
    for contestant in field_:
        measure(contestant, folders["few"], folder)  # fills caches, compiles modules
    for number in range(rounds):
        turn = number % len(field_)
        for contestant in field_[turn:] + field_[:turn]:
            for size, src in folders.items():
                run = measure(contestant, src, folder)
                if run is not None:
                    contestant.runs[size].append(run)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)


def slope(runs: dict[str, list[Run]], of: Callable[[Run], float]) -> float:
    """Return how much `of` grows per image."""
    grown = statistics.median(map(of, runs["all"])) - statistics.median(map(of, runs["few"]))
    return grown / (runs["all"][0].images - runs["few"][0].images)


def row(name: str, runs: dict[str, list[Run]], seconds: Callable[[Run], float]) -> dict[str, Any]:
    rates = [run.images / seconds(run) for run in runs["all"]]
    return {
        "name": name,
        "images_per_second": statistics.median(rates),
        "min": min(rates),
        "max": max(rates),
        "rates": rates,
        "images_per_second_without_start_up": 1 / slope(runs, seconds),
        "cpu_ms_per_image": 1000 * slope(runs, lambda run: run.cpu),
        "others": statistics.median(run.others for run in runs["all"]),
    }


def rows(contestant: Contestant) -> list[dict[str, Any]]:
    runs = contestant.runs
    if contestant.failure or not runs["all"]:
        return [{"name": contestant.name, "failure": contestant.failure or "not run"}]
    if runs["all"][0].after_imports is None:
        return [row(contestant.name, runs, lambda run: run.seconds)]
    return [
        row(f"{contestant.name}, whole command", runs, lambda run: run.seconds),
        row(f"{contestant.name}, after imports", runs, lambda run: run.after_imports or 0),
    ]


def relate(table: list[dict[str, Any]]) -> None:
    """Add each row's ratio to the first row: the median over rounds of the ratio within a round, because a shared machine drifts."""
    own = table[0].get("rates")
    for line in table:
        if own and "rates" in line:
            line["ratio_to_ours"] = statistics.median(rate / mine for rate, mine in zip(line["rates"], own, strict=True))


def print_table(table: list[dict[str, Any]]) -> None:
    print(f"{'':<40} {'images/s':>8}  {'min - max':^13} {'to ours':>8} {'without start-up':>17} {'CPU ms':>7} {'others':>7}")
    for line in table:
        if "failure" in line:
            print(f"{line['name']:<40} {line['failure']}")
            continue
        rate, spread = line["images_per_second"], f"{line['min']:.0f} - {line['max']:.0f}"
        ratio = f"{line['ratio_to_ours']:.2f}" if "ratio_to_ours" in line else "-"
        steady, cpu = line["images_per_second_without_start_up"], line["cpu_ms_per_image"]
        print(f"{line['name']:<40} {rate:>8.0f}  {spread:^13} {ratio:>8} {steady:>17.0f} {cpu:>7.2f} {line['others']:>7.0%}")


def processor() -> str:
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = options(__doc__, "folder of class folders, or of train/ and val/ with such")
    arguments = parser.parse_args()
    venvs = arguments.venvs.expanduser().absolute()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if arguments.install:
        sys.exit(install_all(PEERS, venvs))
    machine = {"processor": processor(), "cpus": CPUS, "system": platform.platform(), "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        src = arguments.src.absolute() if arguments.src else draw(folder / "drawn")
        folders = prepare(src, folder, arguments.copies)
        counts = {size: len(files_of(path)) for size, path in folders.items()}
        field_ = contestants(venvs)
        compete(field_, folders, arguments.rounds, folder)
    table = [line for contestant in field_ for line in rows(contestant)]
    relate(table)
    print(f"{machine['processor']}, {CPUS} CPUs, {machine['system']}, load before {machine['load_before']:.1f}")
    print(
        f"{counts['all']} images ({arguments.copies} links to each of {src if arguments.src else 'our drawn pictures'}), {arguments.rounds} rounds\n"
    )
    print_table(table)
    print()
    for contestant in field_:
        print(f"{contestant.name}: {', '.join(f'{package} {number}' for package, number in contestant.versions.items()) or 'not installed'}")
    if arguments.json:
        runs = {contestant.name: {size: [asdict(run) for run in runs] for size, runs in contestant.runs.items()} for contestant in field_}
        versions = {contestant.name: contestant.versions for contestant in field_}
        facts = {"machine": machine, "images": counts, "rounds": arguments.rounds, "table": table, "runs": runs, "versions": versions}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


def draw(folder: Path) -> Path:
    for _ in write_demo_data(folder, 40, 10, 0):
        pass
    return folder


if __name__ == "__main__":
    main()
