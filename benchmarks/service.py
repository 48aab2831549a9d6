"""`alexprep serve` over loopback, compared with local loading and with Flight alone; latency, several servers, and a soak test with faults.

python benchmarks/service.py SHARDS [RAW_SHARDS] [--rounds 3] [--streams 4] [--soak MINUTES] [--json FILE] [--only PART]

SHARDS are JPEG records, RAW_SHARDS the same records made with --encoding raw. Servers, clients and trainers share the CPUs of one machine, so the
figures are ratios of alternating measurements in one run. They do not show what a server on its own machine would give.

throughput  images/s of a client that only takes answers, in each form, and of a `Loader` of the server; beside a local `Loader`, and beside
            a bare Flight server that sends the same messages, those of eight steps, from memory ("Flight alone")
latency     p50 and p99 for one answer of 32 records, with 1, 8 and 64 clients at once
scale       images/s of 1, 2 and 4 servers, pinned to the CPUs in turn
train       a trainer's rate with --data grpc://, as a share of its rate with the folder; trainer and server have one CPU each
soak        a stream while servers are killed, stopped and flooded: memory of the server that stays, each batch compared with the local one
"""

import argparse
import json
import os
import platform
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from alexprep.pipeline import Batch, Loader, LoaderConfig, read_manifest
from alexprep.pipeline.serving.protocol import Ticket, digest
from alexprep.pipeline.shards.stats import stats_for
from pyarrow import flight

BIN = Path(sys.executable).parent
CPUS = sorted(os.sched_getaffinity(0))
FORMS = ("records", "views", "batches")
BATCH, SECONDS = 128, 4.0


class Server:
    """A server process, pinned to some of the CPUs."""

    def __init__(self, shards: Path, *options: object, port: int = 0, cpus: list[int] | None = None) -> None:
        place = ["taskset", "-c", ",".join(map(str, cpus))] if cpus else []
        program = [*place, BIN / "alexprep", "serve", shards, "--bind", f"127.0.0.1:{port}", "--http", "", "--json", *map(str, options)]
        self.process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.location = json.loads(self.process.stdout.readline())["location"]
        self.port = int(self.location.rpartition(":")[2])

    def resident(self) -> float:
        """Return its memory in MB."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def tickets(shards: Path, form: str, batch: int = BATCH) -> Callable[[int], flight.Ticket]:
    """Return a function that makes the ticket of a step."""
    manifest = read_manifest(shards)
    data, config = digest(manifest, stats_for(manifest, "train")), LoaderConfig(batch_size=batch)
    return lambda step: flight.Ticket(Ticket(data, form, step, config).to_bytes())  # type: ignore[arg-type]


def rate(work: Callable[[int], int], threads: int = 2) -> float:
    """Return images/s of `work(step)`, which returns a number of images, on some threads, after a warm-up of the same length."""
    counts, stop, lock = [0], threading.Event(), threading.Lock()
    steps = iter(range(1 << 40))

    def loop() -> None:
        while not stop.is_set():
            with lock:
                step = next(steps)
            done = work(step)
            with lock:
                counts[0] += done

    workers = [threading.Thread(target=loop) for _ in range(threads)]
    for worker in workers:
        worker.start()
    time.sleep(SECONDS / 2)
    before, start = counts[0], time.perf_counter()
    time.sleep(SECONDS)
    found = (counts[0] - before) / (time.perf_counter() - start)
    stop.set()
    for worker in workers:
        worker.join()
    return found


def take(client: flight.FlightClient, ticket: flight.Ticket) -> int:
    """Read an answer and ignore its content."""
    return sum(len(chunk.data) for chunk in client.do_get(ticket))


def limit(answers: list[list[pa.RecordBatch]]) -> subprocess.Popen[str]:
    """Start a bare server in its own process; it sends these answers in turn, from memory."""
    path = Path(tempfile.mkdtemp()) / "answers.arrow"
    with pa.ipc.new_file(path, answers[0][0].schema) as file:
        for batch in (batch for answer in answers for batch in answer):
            file.write_batch(batch)
    return subprocess.Popen([sys.executable, __file__, "--bare", path], stdout=subprocess.PIPE, text=True)


def bare(path: Path) -> None:
    """Run that server."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    path.unlink()  # the data stays in memory until this process ends
    path.parent.rmdir()
    batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    answers = len(batches) // 8
    turn = iter(range(1 << 40))

    class Bare(flight.FlightServerBase):
        def do_get(self, _context: flight.ServerCallContext, _ticket: flight.Ticket) -> flight.GeneratorStream:
            first = next(turn) % 8 * answers
            return flight.GeneratorStream(reader.schema, iter(batches[first : first + answers]))

    server = Bare("grpc://127.0.0.1:0")
    print(server.port, flush=True)
    server.serve()


def _again(client: flight.FlightClient, _step: int) -> int:
    return take(client, flight.Ticket(b""))


def _asked(client: flight.FlightClient, ticket: Callable[[int], flight.Ticket], step: int) -> int:
    return take(client, ticket(step))


def throughput(folders: dict[str, Path], rounds: int, streams: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = {}
    for name, shards in folders.items():
        server = Server(shards)
        client = flight.connect(server.location)
        for form in FORMS:
            ticket = tickets(shards, form)
            answer = [chunk.data for chunk in client.do_get(ticket(0))]
            sent = sum(batch.nbytes for batch in answer) / sum(map(len, answer))
            plain = limit([[chunk.data for chunk in client.do_get(ticket(step))] for step in range(8)])
            assert plain.stdout is not None
            other = flight.connect(f"grpc://127.0.0.1:{int(plain.stdout.readline())}")
            for _ in range(rounds):
                row = {"KB an image": sent / 1e3}
                row["limit"] = rate(partial(_again, other), streams)
                row["taken"] = rate(partial(_asked, client, ticket), streams)
                row["loader"] = loader_rate(Loader(server.location, batch_size=BATCH, form=form))  # type: ignore[arg-type]
                row["local"] = loader_rate(Loader(shards, batch_size=BATCH))
                found.setdefault(f"{name} {form}", []).append(row)
            plain.kill()
        server.kill()
    print(f"\nimages/s, batches of {BATCH} of 224x224, medians of {rounds} rounds; ratios within a round; answers at a time: {streams}")
    print(f"{'':14}{'KB/image':>9}{'Flight alone':>14}{'taken':>9}{'of Flight':>11}{'Loader':>9}{'local Loader':>14}{'of local':>10}")
    for name, rows in found.items():
        middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        of_limit, of_local = (statistics.median(row[a] / row[b] for row in rows) for a, b in (("taken", "limit"), ("loader", "local")))
        print(
            f"{name:14}{middle['KB an image']:9.1f}{middle['limit']:14,.0f}{middle['taken']:9,.0f}{of_limit:11.2f}"
            f"{middle['loader']:9,.0f}{middle['local']:14,.0f}{of_local:10.2f}"
        )
    return found


def loader_rate(loader: Loader) -> float:
    """Return images/s of a loader."""
    count, start = 0, 0.0
    begin = time.perf_counter()
    while True:
        for batch in loader:
            now = time.perf_counter()
            if start:
                count += len(batch.labels)
                if now - start > SECONDS:
                    return count / (now - start)
            elif now - begin > SECONDS / 2:
                start = now


def latency(shards: Path) -> dict[str, Any]:
    server = Server(shards)
    found: dict[str, Any] = {}
    print("\nseconds from ticket to last byte, answers of 32 records, each client asking again as soon as it is answered")
    print(f"{'':10}{'clients':>8}{'p50 ms':>9}{'p99 ms':>9}{'answers/s':>11}")
    for form in FORMS:
        ticket = tickets(shards, form, 32)
        for clients in (1, 8, 64):
            taken: list[float] = []
            stop = threading.Event()

            def ask(first: int, taken: list[float] = taken, stop: threading.Event = stop, ticket: Callable[[int], flight.Ticket] = ticket) -> None:
                client, step = flight.connect(server.location), first * 1000
                while not stop.is_set():
                    start = time.perf_counter()
                    try:
                        take(client, ticket(step))
                    except flight.FlightUnavailableError:
                        time.sleep(0.25)
                        continue
                    taken.append(time.perf_counter() - start)
                    step += 1

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
            for thread in threads:
                thread.start()
            time.sleep(1)
            taken.clear()
            time.sleep(SECONDS)
            kept = sorted(taken)
            stop.set()
            for thread in threads:
                thread.join()
            p50, p99 = kept[len(kept) // 2], kept[min(len(kept) - 1, int(0.99 * len(kept)))]
            found[f"{form} {clients}"] = [p50, p99, len(kept) / SECONDS]
            print(f"{form:10}{clients:8}{1e3 * p50:9.1f}{1e3 * p99:9.1f}{len(kept) / SECONDS:11.1f}")
    server.kill()
    return found


def scale(shards: Path, rounds: int) -> dict[str, Any]:
    found: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for _ in range(rounds):
        for count, rates in found.items():
            servers = [Server(shards, "--threads", 1, cpus=[CPUS[number % len(CPUS)]]) for number in range(count)]
            clients = [flight.connect(server.location) for server in servers]
            ticket = tickets(shards, "views")
            rates.append(rate(lambda step, clients=clients, ticket=ticket: take(clients[step % len(clients)], ticket(step)), 2 * count))
            for server in servers:
                server.kill()
    print(f"\nviews from several servers, a thread and a CPU each of the {len(CPUS)}, which the client needs too; medians of {rounds} rounds")
    for count, rates in found.items():
        ratio = statistics.median(rate / one for rate, one in zip(rates, found[1], strict=True))
        print(f"{count} servers {statistics.median(rates):9,.0f} images/s {ratio:6.2f} times one")
    return {str(count): rates for count, rates in found.items()}


def train(shards: Path, rounds: int) -> dict[str, Any]:
    """Measure a trainer on one CPU, which its local loading shares; the server has another CPU."""
    server = Server(shards, cpus=[CPUS[-1]])
    found: dict[str, list[float]] = {"folder": [], **{form: [] for form in FORMS}}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            for name, rates in found.items():
                where = [str(shards)] if name == "folder" else ["--data", server.location, "--set", f"form={name}"]
                out = Path(scratch) / f"{name}-{number}"
                options = ["--steps", "12", "--batch-size", "64", "--precision", "bfloat16", "--set", "log_steps=4", "--set", "eval_batch_size=64"]
                program = ["taskset", "-c", str(CPUS[0]), BIN / "alextrain", "run", *where, "--out", out, *options, "--width", "0.25"]
                subprocess.run(program, check=True, capture_output=True)
                rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
                rates.append(statistics.median([row["images_per_s"] for row in rows if row["event"] == "step"][1:]))
    server.kill()
    print(f"\na trainer on CPU {CPUS[0]} (a quarter of AlexNet's width), a server on CPU {CPUS[-1]}; medians of {rounds} rounds")
    for name, rates in found.items():
        ratio = statistics.median(rate / local for rate, local in zip(rates, found["folder"], strict=True))
        print(f"{name:10}{statistics.median(rates):9.1f} images/s {ratio:6.3f} of its rate with the folder")
    return found


def soak(shards: Path, minutes: float) -> dict[str, Any]:
    """Stream from a server that stays up amid noise and two that fail at random; compare each batch with the local one."""
    stays, others = Server(shards, "--stall-seconds", 5), [Server(shards) for _ in range(2)]
    ports = [other.port for other in others]
    where = "grpc://" + ",".join(f"127.0.0.1:{port}" for port in (stays.port, *ports))
    chance, end = random.Random(0), time.monotonic() + 60 * minutes
    faults: dict[str, int] = {}
    memory: list[float] = []

    def trouble() -> None:
        ticket = tickets(shards, "batches")
        while time.monotonic() < end:
            kind = chance.choice(["kill", "stop", "noise", "stalled", "idle", "shutdown"])
            faults[kind] = faults.get(kind, 0) + 1
            i = chance.randrange(2)
            if kind in ("kill", "shutdown"):
                others[i].process.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
                others[i].process.wait()
                time.sleep(0.5)
                others[i] = Server(shards, port=ports[i])
            elif kind == "stop":
                others[i].process.send_signal(signal.SIGSTOP)
                time.sleep(3)
                others[i].process.send_signal(signal.SIGCONT)
            elif kind == "stalled":
                reader = flight.connect(stays.location).do_get(ticket(chance.randrange(100)))
                time.sleep(1)
                del reader
            else:
                for _ in range(50):
                    with socket.create_connection(("127.0.0.1", stays.port)) as connection:
                        connection.sendall(chance.randbytes(200) if kind == "noise" else b"")
            time.sleep(0.5)

    threading.Thread(target=trouble, daemon=True).start()
    steps, wrong = dict.fromkeys(FORMS, 0), 0
    loaders = {form: iter_forever(Loader(where, batch_size=64, form=form)) for form in FORMS}  # type: ignore[arg-type]
    locals_ = {form: iter_forever(Loader(shards, batch_size=64)) for form in FORMS}
    while time.monotonic() < end:
        for form in FORMS:
            served, local = next(loaders[form]), next(locals_[form])
            wrong += not (torch.equal(served.images, local.images) and torch.equal(served.labels, local.labels))
            steps[form] += 1
        memory.append(stays.resident())
    quarter = len(memory) // 4
    early, late = statistics.median(memory[quarter : 2 * quarter]), statistics.median(memory[-quarter:])
    each = ", ".join(f"{name} {count:,}" for name, count in steps.items())
    print(f"\nsoak, {minutes:g} minutes: {sum(steps.values()):,} batches of 64 ({each}), {wrong} wrong")
    print(f"faults: {', '.join(f'{name} {count}' for name, count in sorted(faults.items()))}")
    print(f"memory of the server that stayed: {early:.0f} MB in the second quarter, {late:.0f} MB in the last, {max(memory):.0f} MB at most")
    for server in (stays, *others):
        server.kill()
    return {"steps": steps, "wrong": wrong, "faults": faults, "memory": [early, late, max(memory)]}


def iter_forever(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("raw", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=4, help="answers that a bare client takes at a time (default: %(default)s, as in a Loader)")
    parser.add_argument("--soak", type=float, default=10, help="minutes of the soak test (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=["throughput", "latency", "scale", "train", "soak"])
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        "throughput": lambda: throughput({"jpeg": chosen.shards, **({"raw": chosen.raw} if chosen.raw else {})}, chosen.rounds, chosen.streams),
        "latency": lambda: latency(chosen.raw or chosen.shards),
        "scale": lambda: scale(chosen.shards, chosen.rounds),
        "train": lambda: train(chosen.shards, chosen.rounds),
        "soak": lambda: soak(chosen.shards, chosen.soak),
    }
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    print(f"{len(CPUS)} CPUs ({model[1] if model else platform.machine()}), Python {platform.python_version()}, pyarrow {pa.__version__}")
    found = {name: part() for name, part in parts.items() if not chosen.only or name in chosen.only}
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        bare(Path(sys.argv[2]))
    else:
        main()
