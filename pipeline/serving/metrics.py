"""Monitor a service: /healthz, /readyz and Prometheus' /metrics over HTTP; JSON log lines."""

import json
import logging
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ..addresses import Address
from ..config import Form
from ..errors import DataError
from .quiet_http import QuietHandler, QuietServer

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)  # buckets of the histogram
MOST_CONNECTIONS = 64  # open HTTP connections
FORMS = (*get_args(Form), "files")


class Gauges:
    """The metrics of one server. Each has its own registry: a process may have several servers."""

    def __init__(self) -> None:
        """Create all metrics, at 0."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "alexprep_requests", "Finished requests, by outcome: ok, error, or broken (by the client).", ["form", "outcome"], registry=registry
        )
        self.seconds = Histogram(
            "alexprep_request_seconds",
            "Seconds from the ticket until the client has taken the last message.",
            ["form"],
            buckets=SECONDS,
            registry=registry,
        )
        self.sent = Counter("alexprep_sent_bytes", "Bytes of answers that clients have taken.", ["form"], registry=registry)
        self.running = Gauge("alexprep_requests_running", "Requests being answered.", ["form"], registry=registry)
        self.shed = Counter("alexprep_shed", "Requests refused with a retry hint, since the server was full or draining.", registry=registry)
        self.refused = Counter("alexprep_unauthenticated", "Calls without a valid token.", registry=registry)
        self.errors = Counter(
            "alexprep_errors", "Failed requests, by kind: ticket (invalid), data (damaged shards), internal.", ["kind"], registry=registry
        )
        for form in FORMS:  # creates each label at 0
            self.sent.labels(form)
            self.requests.labels(form, "ok")
        self.waiting = Gauge("alexprep_requests_waiting", "Requests whose next message waits for a free thread.", registry=registry)
        self.cached = Gauge("alexprep_cache_bytes", "Bytes of an object store's shards in the local cache.", registry=registry)
        self.stalled = Counter("alexprep_stalled", "Connections closed because the client took nothing of its answer.", registry=registry)

    def look(self, running: Callable[[str], int], waiting: Callable[[], int], cached: Callable[[], int]) -> None:
        """Have these gauges call the functions at each collection; `running` takes a form."""
        for form in FORMS:
            self.running.labels(form).set_function(partial(running, form))
        self.waiting.set_function(waiting)
        self.cached.set_function(cached)

    def ended(self, form: str, outcome: str, seconds: float) -> None:
        """Count a finished request and its seconds."""
        self.requests.labels(form, outcome).inc()
        self.seconds.labels(form).observe(seconds)

    def totals(self) -> dict[str, float]:
        """Return the counters and memory that `alexprep serve --status` prints. Counters are summed over their labels, except `outcome`."""
        found: dict[str, float] = {}
        for metric in self.registry.collect():
            for sample in metric.samples:
                if sample.name.startswith("alexprep_") and sample.name.endswith("_total"):
                    name = sample.name.removeprefix("alexprep_").removesuffix("_total")
                    name = f"{name}_{sample.labels['outcome']}" if "outcome" in sample.labels else name
                    found[name] = found.get(name, 0) + sample.value
                elif sample.name == "process_resident_memory_bytes":
                    found["resident_bytes"] = sample.value
        return found


class Health(QuietServer):
    """The HTTP server. It reveals nothing about the data: no names, no paths."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: Address, gauges: Gauges, ready: Callable[[], bool]) -> None:
        """Listen on `address`; DataError if that fails."""
        self.gauges, self.ready = gauges, ready
        self._open: OrderedDict[Any, None] = OrderedDict()  # connections, the oldest first
        self._lock = threading.Lock()
        if ":" in address.host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((address.host, address.port), _Handler)
        except OSError as error:
            raise DataError(f"cannot listen on {address} for health and metrics: {error.strerror}; give another --http") from error
        self.url = f"http://{Address(address.host, self.server_port)}"
        threading.Thread(target=self.serve_forever, args=(0.2,), name="alexprep-health", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  (socketserver's own)
        """Accept a connection; beyond MOST_CONNECTIONS, close the oldest one.

        Probes are new and short connections, so they are answered even then.
        """
        with self._lock:
            self._open[request] = None
            if len(self._open) > MOST_CONNECTIONS:
                with suppress(OSError):
                    self._open.popitem(last=False)[0].shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  (socketserver's own)
        """Answer the request, and drop the connection from the list."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.pop(request, None)


class _Handler(QuietHandler):
    timeout = 5  # seconds that a connection may be silent
    server: Health
    server_version = "alexprep"
    sys_version = ""

    def do_GET(self) -> None:  # noqa: N802  (the name that http.server calls)
        plain = "text/plain; charset=utf-8"
        if self.path == "/healthz":
            self._answer(HTTPStatus.OK, plain, b"ok\n")
        elif self.path == "/readyz":
            ready = self.server.ready()
            self._answer(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, plain, b"ready\n" if ready else b"draining\n")
        elif self.path == "/metrics":
            self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self.server.gauges.registry))
        else:
            self._answer(HTTPStatus.NOT_FOUND, plain, b"there are /healthz, /readyz and /metrics\n")

    def do_HEAD(self) -> None:  # noqa: N802  (as above)
        self.do_GET()

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class JsonLines(logging.Formatter):
    """Formats each event as a line of JSON: time, level, event, and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`."""
        plain = logging.makeLogRecord({}).__dict__
        facts = {name: value for name, value in record.__dict__.items() if name not in plain and name not in ("message", "taskName")}
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage(), **facts}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
