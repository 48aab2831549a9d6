"""A service seen from outside: /healthz, /readyz and Prometheus' /metrics over HTTP, and a log of JSON lines."""

import json
import logging
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ..addresses import Address
from ..config import Form
from ..errors import DataError

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
MOST_CONNECTIONS = 64
FORMS = (*get_args(Form), "files")


class Gauges:
    """What a server counts. Of each its own: several may be in one process."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "alexprep_requests", "Answers that ended: ok, error, or broken by the client.", ["form", "outcome"], registry=registry
        )
        self.seconds = Histogram(
            "alexprep_request_seconds", "From the ticket to the last message taken.", ["form"], buckets=SECONDS, registry=registry
        )
        self.sent = Counter("alexprep_sent_bytes", "Bytes of answers that were taken.", ["form"], registry=registry)
        self.running = Gauge("alexprep_requests_running", "RequestHandler on their way.", ["form"], registry=registry)
        self.shed = Counter("alexprep_shed", "Requests that were asked to come again.", registry=registry)
        self.refused = Counter("alexprep_unauthenticated", "Calls without a good token.", registry=registry)
        self.errors = Counter("alexprep_errors", "By kind: ticket (it cannot be), data (damaged shards), internal.", ["kind"], registry=registry)
        for form in FORMS:  # so that each is there from the start, at 0
            self.sent.labels(form)
            self.requests.labels(form, "ok")
        self.waiting = Gauge("alexprep_requests_waiting", "Answers whose next message waits for a thread that makes it.", registry=registry)
        self.cached = Gauge("alexprep_cache_bytes", "Shards of an object store on the local disk.", registry=registry)
        self.stalled = Counter("alexprep_stalled", "Connections closed since nothing was taken of an answer.", registry=registry)

    def look(self, running: Callable[[str], int], waiting: Callable[[], int], cached: Callable[[], int]) -> None:
        """Ask these for what `running` (of a form), `waiting` and `cached` are, when somebody wants to know."""
        for form in FORMS:
            self.running.labels(form).set_function(partial(running, form))
        self.waiting.set_function(waiting)
        self.cached.set_function(cached)

    def ended(self, form: str, outcome: str, seconds: float) -> None:
        """Count an answer that ended."""
        self.requests.labels(form, outcome).inc()
        self.seconds.labels(form).observe(seconds)

    def totals(self) -> dict[str, float]:
        """Return what is told by `alexprep serve --status`."""
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


class Health(ThreadingHTTPServer):
    """The HTTP side. It says nothing of the data: no names, no paths."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: Address, gauges: Gauges, ready: Callable[[], bool]) -> None:
        """Listen; DataError if that cannot be."""
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
        """Take a connection; when there are too many, the oldest is closed for it: a probe is a new one, and short."""
        with self._lock:
            self._open[request] = None
            if len(self._open) > MOST_CONNECTIONS:
                with suppress(OSError):
                    self._open.popitem(last=False)[0].shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  (socketserver's own)
        """Answer, and forget the connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  (socketserver's own)
        """Pass over connections that broke."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds that a connection may say nothing
    server: Health
    server_version = "alexprep"
    sys_version = ""

    def do_GET(self) -> None:
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

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


class JsonLines(logging.Formatter):
    """A line of JSON an event: when, how grave, what, and its facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        plain = logging.makeLogRecord({}).__dict__
        facts = {name: value for name, value in record.__dict__.items() if name not in plain and name not in ("message", "taskName")}
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage(), **facts}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
