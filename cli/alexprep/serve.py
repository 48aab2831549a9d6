"""`alexprep serve`: serve a data set to other machines; `--status` reports on servers."""

import json
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from ..data_options import DIRECTORY
from ..errors import a_number, wrong_values
from ..options import CACHE, JSON, Grouped, cached, group
from ..text import print_json

BIND, HTTP = "127.0.0.1:8815", "127.0.0.1:8816"
FILE = click.Path(path_type=Path, dir_okay=False)
log = logging.getLogger("alexprep.serve")
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
ORDERS = 16  # epochs, of all trainers together, whose record orders are cached
STATUS_SECONDS = 5.0  # timeout of a status request


@click.command(cls=Grouped)
@DIRECTORY
@group(
    "Addresses",
    click.option("--bind", default=BIND, show_default=True, metavar="HOST:PORT", help="Address for trainers; port 0: any that is free."),
    click.option(
        "--http", default=HTTP, show_default=True, metavar="HOST:PORT", help="Address of /healthz, /readyz and /metrics; '' for none of them."
    ),
)
@group(
    "Security",
    click.option("--tls-cert", type=FILE, help="Certificate of the server (PEM, with its chain)."),
    click.option("--tls-key", type=FILE, help="Key of that certificate."),
    click.option("--tls-client-ca", type=FILE, help="Authority that must have signed the clients' certificates (mutual TLS)."),
    click.option("--tokens", type=FILE, help="File of bearer tokens, one a line; it is read again at SIGHUP."),
)
@group(
    "Resources",
    *CACHE,
    click.option("--threads", default=0, show_default=True, type=click.IntRange(0, 1024), help="Threads that build responses; 0: one per CPU."),
    click.option(
        "--max-requests",
        default=256,
        show_default=True,
        type=click.IntRange(1, 65536),
        help="Maximum concurrent requests; others get UNAVAILABLE and a retry hint.",
    ),
    click.option(
        "--stall-seconds",
        default=60.0,
        show_default=True,
        type=click.FloatRange(1, 86400),
        callback=a_number,
        help="Seconds after which a client that reads nothing is disconnected.",
    ),
    click.option(
        "--drain-seconds",
        default=30.0,
        show_default=True,
        type=click.FloatRange(0, 86400),
        callback=a_number,
        help="Seconds at SIGTERM for responses that are under way.",
    ),
)
@group(
    "Output",
    click.option(
        "--log-level",
        default="info",
        show_default=True,
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="Level of the log; debug has every request.",
    ),
    click.option(
        "--status", is_flag=False, flag_value=f"grpc://{BIND}", metavar="[ADDRESSES]", help="State of running servers, printed in place of serving."
    ),
    JSON,
)
def serve(
    directory: str,
    bind: str,
    http: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    tokens: Path | None,
    cache: Path | None,
    cache_size: int,
    threads: int,
    max_requests: int,
    stall_seconds: float,
    drain_seconds: float,
    log_level: str,
    status: str | None,
    as_json: bool,
) -> None:
    """Serve shards to trainers over Arrow Flight.

    The shards are those in DIRECTORY (shards/, or $ALEXPREP_DATA). Trainers use `alextrain run --data grpc://HOST:PORT`, or
    Loader("grpc://HOST:PORT"), with several servers grpc://HOST:PORT,HOST2:PORT; batches are the same to the last bit. Beyond this
    machine, TLS is needed, and tokens or client certificates. At SIGTERM, responses under way are finished. The log on stderr is
    JSON, one line per event.
    """
    if status is not None:
        _print_status(status, as_json=as_json)
        return
    _serve(
        directory,
        bind,
        http,
        secrets=(tls_cert, tls_key, tls_client_ca, tokens),
        cache=cached(cache, cache_size),
        limits=(max_requests, threads, stall_seconds),
        drain_seconds=drain_seconds,
        log_level=log_level,
        as_json=as_json,
    )


def _serve(
    directory: str,
    bind: str,
    http: str,
    *,
    secrets: tuple[Path | None, Path | None, Path | None, Path | None],
    cache: dict[str, Any],
    limits: tuple[int, int, float],
    drain_seconds: float,
    log_level: str,
    as_json: bool,
) -> None:
    """Serve until a signal arrives; the arguments are the options of `serve`."""
    # before the imports: numpy, OpenCV and Arrow start threads, any of which might get a signal
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    with _ended_by_signals():
        from alexprep.pipeline.addresses import Address
        from alexprep.pipeline.batches.sampler import keep_orders
        from alexprep.pipeline.imaging.codec import use_one_thread
        from alexprep.pipeline.serving.auth import Secrets
        from alexprep.pipeline.serving.handlers import RequestHandler
        from alexprep.pipeline.serving.metrics import Health
        from alexprep.pipeline.serving.server import Limits, Service
        from alexprep.pipeline.storage.uri import is_served, location

        if is_served(location(directory)):
            raise click.UsageError(f"{directory} is served already; give a folder of shards, or the URI of an object store with --cache")
        with wrong_values():
            address, side = Address.parse(bind), Address.parse(http) if http else None
        access = Secrets(*secrets)
        access.check(address)
        keep_orders(ORDERS)
        _log_to_stderr(log_level)
        _warn_of_exposed(secrets[3], secrets[1])
        use_one_thread()  # OpenCV would start as many threads again
        _many_connections()
        answers = RequestHandler(directory, **cache)
    service = Service(answers, address, access, Limits(*limits))
    health = None if side is None else Health(side, service.gauges, lambda: not service.draining)
    facts = {"location": service.location, "http": None if health is None else health.url, "data": directory, "plan": answers.manifest.plan}
    if as_json:
        print_json(facts)
    else:
        records = ", ".join(f"{name} {split.records:,}" for name, split in answers.manifest.splits.items())
        click.echo(
            f"{directory} ({records} records) is served at {service.location}" + ("" if health is None else f"; health and metrics: {health.url}")
        )
    sys.stdout.flush()
    _until_stopped(service)
    log.info("draining", extra={"seconds": drain_seconds})
    log.info("stopped", extra={"all_answered": service.drain(drain_seconds)})
    answers.close()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End the program at SIGTERM or Ctrl-C during imports and opening, which may take long.

    SIGHUP, the signal to read the tokens again, is ignored: they have not been read yet.
    """
    opened = threading.Event()

    def wait() -> None:
        while not opened.is_set():
            found = signal.sigtimedwait(SIGNALS, 0.1)
            if found is not None and found.si_signo != signal.SIGHUP:
                os._exit(128 + found.si_signo)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    try:
        yield
    finally:
        opened.set()
        waiting.join()


def _until_stopped(service: Any) -> None:  # noqa: ANN401  (Service, imported late)
    """Wait for SIGTERM or Ctrl-C; read the tokens again at SIGHUP. After the return, SIGTERM or Ctrl-C ends the program at once."""
    from alexprep.pipeline.errors import DataError

    log.info("ready", extra={"location": service.location})
    while signal.sigwait(SIGNALS) == signal.SIGHUP:
        try:
            if service.tokens is not None:
                service.tokens.reread()
                log.info("tokens", extra={"count": len(service.tokens)})
                _warn_of_exposed(service.tokens.path)
        except (DataError, OSError) as error:
            # without a traceback: the user has mistyped something
            log.error("tokens", extra={"reason": str(error), "kept": len(service.tokens)})  # noqa: TRY400
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS - {signal.SIGHUP})


def _warn_of_exposed(*files: Path | None) -> None:
    """Log a warning for each file of secrets that other users can read or change."""
    from alexprep.pipeline.storage.credentials import exposed

    for path in files:
        if path is not None and (warning := exposed(path)):
            log.warning("exposed", extra={"reason": warning})


def _log_to_stderr(level: str) -> None:
    from alexprep.pipeline.serving.metrics import JsonLines

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    log.addHandler(handler)
    log.setLevel(level.upper())
    log.propagate = False


def _many_connections() -> None:
    """Raise the limit of open files to the most the system allows: each client is one file."""
    with suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _print_status(addresses: str, *, as_json: bool) -> None:
    """Print the status of each server. DataError if a server does not answer, or if servers have different data sets or statistics."""
    from alexprep.pipeline.errors import DataError
    from alexprep.pipeline.storage.flight_client import Servers, locations

    found: dict[str, Any] = {}
    for location in locations(addresses):
        try:
            found[location] = Servers(location).act("status", patience=STATUS_SECONDS, read=_status)
        except DataError as error:
            found[location] = {"state": "away", "reason": str(error)}
    if as_json:
        print_json(found)
    else:
        for location, facts in found.items():
            click.echo(f"{location}: {_status_line(facts)}")
    data = {location: facts["data"] for location, facts in found.items() if facts["state"] != "away"}
    if len({json.dumps(digests, sort_keys=True) for digests in data.values()}) > 1:
        raise DataError(f"these servers have different data sets, or different statistics, and cannot be used together: {', '.join(data)}")
    away = [location for location, facts in found.items() if facts["state"] == "away"]
    if away:
        raise DataError(f"{len(away)} of {len(found)} servers do not answer: {', '.join(away)}")


def _status(answer: bytes) -> dict[str, Any]:
    """Return the status in a server's answer; NotHere if it is not a valid status."""
    from alexprep.pipeline.storage.flight_client import NotHere

    try:
        facts = json.loads(answer)
        _status_line(facts)
        if not isinstance(facts["data"], dict) or facts["state"] == "away":
            raise TypeError("the status lacks its data set")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise NotHere(f"its answer is not a status of this release ({type(error).__name__}: {error})") from error
    return dict(facts)


def _status_line(facts: dict[str, Any]) -> str:
    if facts["state"] == "away":
        return f"away ({facts['reason']})"
    records = ", ".join(f"{name} {count:,}" for name, count in facts["records"].items())
    done = f"{facts.get('requests_ok', 0):,.0f} answered, {facts['sent_bytes'] / 1e9:,.2f} GB"
    trouble = "".join(
        f", {facts[name]:,.0f} {name.replace('_', ' ')}" for name in ("errors", "shed", "stalled", "unauthenticated") if facts.get(name)
    )
    memory = f", {facts['resident_bytes'] / 1e6:,.0f} MB of memory" if "resident_bytes" in facts else ""
    return f"{facts['state']} for {facts['up_seconds']:,.0f} s; {records} records; {facts['requests_now']} requests now, {done}{trouble}{memory}"
