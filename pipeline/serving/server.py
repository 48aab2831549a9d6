"""Serve records, views and batches over Arrow Flight to other machines (`alexprep serve`).

In:  a folder of shards, an address.
Out: answers (handlers.py), metrics and health over HTTP (metrics.py).

The server is stateless: any server of the same shards answers any ticket. Each request runs in a
gRPC thread, which makes a message of some MiB, sends it, and makes the next one when the client has
taken it.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import flight

from ..addresses import Address
from ..errors import DataError
from .auth import Admitted, Guard, Secrets, Tokens
from .handlers import RequestHandler, log
from .metrics import Gauges
from .protocol import OTHER_DATA, Ticket, WrongTicket
from .stalls import Stalls, hang_up, name_of

T = TypeVar("T", pa.RecordBatch, bytes)


@dataclass(frozen=True)
class Limits:
    """Limits of a server's load."""

    requests: int = 256  # maximum concurrent requests; others get UNAVAILABLE and a retry hint
    threads: int = 0  # threads that make messages at a time; 0: as many as the CPUs it may use
    # Seconds in which a client must take something of an answer, or its connection is closed; a
    # whole message may take ten times as long.
    stall_seconds: float = 60.0
    retry_after: float = 0.25  # retry hint for refused requests, seconds


FLUSH_SECONDS = 5.0  # time for gRPC to send its buffered messages at shutdown
LOOPBACK = Secrets()  # no TLS and no tokens: only loopback addresses are allowed


@dataclass(eq=False)
class _Request:
    """A request that is being answered."""

    form: str
    peer: str
    start: float = field(default_factory=time.monotonic)
    waiting: bool = False  # whether it waits for a free thread to make the next message
    sending_since: float = 0.0  # time when the last message was sent; 0 while the next one is made


class Service(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow has no types
    """The server. `serve` blocks until `drain` or `shutdown`."""

    def __init__(self, answers: RequestHandler, address: Address, secrets: Secrets = LOOPBACK, limits: Limits = Limits()) -> None:
        """Listen on `address`; DataError if that fails, or is not allowed (see `Secrets.check`)."""
        secrets.check(address)
        self.answers, self.limits = answers, limits
        self.gauges = Gauges()
        self.gauges.look(self._running, self._waiting, answers.cached_bytes)
        self.tokens = Tokens(secrets.tokens) if secrets.tokens is not None else None
        self.draining = False
        self._since = time.time()
        self._makers = threading.BoundedSemaphore(limits.threads or len(os.sched_getaffinity(0)))
        self._requests: set[_Request] = set()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        guard = {} if self.tokens is None else {"guard": Guard(self.tokens, self.gauges.refused.inc)}
        scheme = "grpc" if secrets.cert is None else "grpc+tls"
        options = secrets.tls()
        try:
            if address.port:  # gRPC would not say that the port is in use
                family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
                socket.create_server((address.host, address.port), family=family).close()
            super().__init__(f"{scheme}://{address}", middleware=guard, **options)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"cannot listen on {address}: {_plain(error)}; give another --bind") from error
        self.location = f"{scheme}://{Address(address.host, self.port)}"
        threading.Thread(target=self._watch, name="alexprep-watch", daemon=True).start()

    def do_get(self, context: Any, ticket: Any) -> Any:  # noqa: ANN401  (pyarrow's)
        """Answer a ticket."""
        with self._errors("get"):
            asked = Ticket.parse(ticket.ticket)
            columns, rows = self.answers.to(asked)
        return flight.GeneratorStream(columns, self._sent(asked.form, context, rows))

    def do_action(self, context: Any, action: Any) -> Iterator[bytes]:  # noqa: ANN401  (pyarrow's)
        """Return the answer of an action: status, files, or a part of a file."""
        with self._errors("action"):
            body = _json(action.body.to_pybytes() if action.body is not None else b"null")
            if action.type == "status":
                return iter([json.dumps(self.status()).encode()])
            if action.type in ("files", "read") and isinstance(body, dict) and body.get("identity") not in (None, self.answers.identity):
                raise WrongTicket(OTHER_DATA)
            if action.type == "files":
                return iter([json.dumps({"identity": self.answers.identity, "files": self.answers.files()}).encode()])
            if action.type == "read":
                if not isinstance(body, dict) or [type(body.get(name)) for name in ("file", "offset", "length")] != [str, int, int]:
                    raise WrongTicket("read takes file, offset and length")
                return self._sent("files", context, self.answers.read(body["file"], body["offset"], body["length"]))
            raise WrongTicket("unknown action: expected status, files or read")

    def _not_offered(self, *_: Any) -> Any:  # noqa: ANN401  (pyarrow's)
        """Refuse the Flight methods that this service does not have."""
        raise flight.FlightServerError("not supported: use do_get with a ticket, or the actions status, files and read")

    do_put = do_exchange = get_flight_info = get_schema = list_flights = _not_offered

    def list_actions(self, _context: Any) -> list[tuple[str, str]]:  # noqa: ANN401  (pyarrow's)
        """Return the actions, each with its description."""
        return [
            ("status", "state and counters of the server, as JSON"),
            ("files", "name and size in bytes of each file of the data set"),
            ("read", "a part of a file"),
        ]

    def status(self) -> dict[str, Any]:
        """Return the server's state, data set, load and counters."""
        manifest = self.answers.manifest
        with self._lock:
            running = len(self._requests)
        return {
            "location": self.location,
            "state": "draining" if self.draining else "ready",
            "data": self.answers.digests,
            "plan": manifest.plan,
            "records": {name: split.records for name, split in manifest.splits.items()},
            "up_seconds": round(time.time() - self._since, 1),
            "requests_now": running,
            "requests_limit": self.limits.requests,
            "pid": os.getpid(),
            **self.gauges.totals(),
        }

    def drain(self, seconds: float) -> bool:
        """Refuse new requests, wait up to `seconds` for the running ones, then shut down. Returns whether all running requests were answered."""
        deadline = time.monotonic() + seconds
        with self._idle:
            self.draining = True
            while self._requests and (left := deadline - time.monotonic()) > 0:
                self._idle.wait(left)
            done = not self._requests
        closing = threading.Thread(target=self.shutdown, name="alexprep-shutdown", daemon=True)
        closing.start()  # gRPC sends the rest of the answers
        closing.join(FLUSH_SECONDS)
        with suppress(OSError):
            hang_up(self.port)  # otherwise gRPC waits for stalled answers and silent connections
        closing.join()
        return done

    def _admitted(self, form: str, peer: str) -> _Request:
        request = _Request(form, peer)
        with self._lock:
            draining, full = self.draining, len(self._requests) >= self.limits.requests
            if not (draining or full):
                self._requests.add(request)
        if draining or full:
            self.gauges.shed.inc()
            text = "it is being shut down" if draining else f"it has {self.limits.requests} requests, its maximum"
            facts = {"kind": "busy", "text": text, "retry_after": 5.0 if draining else self.limits.retry_after}
            raise flight.FlightUnavailableError(f"{text}; retry after {facts['retry_after']} s", json.dumps(facts).encode())
        return request

    def _running(self, form: str) -> int:
        with self._lock:
            return sum(request.form == form for request in self._requests)

    def _waiting(self) -> int:
        with self._lock:
            return sum(request.waiting for request in self._requests)

    def _sent(self, form: str, context: Any, rows: Iterator[T]) -> Iterator[T]:  # noqa: ANN401  (pyarrow's)
        """Yield the messages of an answer, each made when the last one has been taken. Stops with an error when the client's token is revoked."""
        admitted: Admitted | None = None if self.tokens is None else context.get_middleware("guard")
        # Counted only here: a generator that is never started would never be removed again.
        request = self._admitted(form, _peer(context))
        sent = self.gauges.sent.labels(form)
        outcome = "broken"  # if the client leaves before the end
        try:
            with self._errors("get"):
                while (batch := self._made(request, rows)) is not None:
                    request.sending_since = time.monotonic()
                    yield batch
                    request.sending_since = 0.0
                    if admitted is not None:
                        admitted.check()
                    # `nbytes` would take three times as long.
                    sent.inc(len(batch) if isinstance(batch, bytes) else batch.get_total_buffer_size())
            outcome = "ok"
        except flight.FlightError:
            outcome = "error"
            raise
        finally:
            with self._idle:
                self._requests.discard(request)
                self._idle.notify_all()
            seconds = time.monotonic() - request.start
            self.gauges.ended(request.form, outcome, seconds)
            log.debug("request", extra={"form": request.form, "peer": request.peer, "outcome": outcome, "seconds": round(seconds, 4)})

    def _made(self, request: _Request, rows: Iterator[T]) -> T | None:
        request.waiting = True
        with self._makers:
            request.waiting = False
            return next(rows, None)

    @contextmanager
    def _errors(self, method: str) -> Iterator[None]:
        """Turn errors into Flight errors with JSON details.

        For an internal error, the client learns only the exception's type; the log has the traceback.
        """
        try:
            yield
        except flight.FlightError:
            raise
        except DataError as error:
            kind = "ticket" if isinstance(error, WrongTicket) else "data"
            self.gauges.errors.labels(kind).inc()
            log.log(
                logging.INFO if kind == "ticket" else logging.ERROR, "refused", extra={"method": method, "kind": kind, "reason": str(error)[:1000]}
            )
            facts = {"kind": kind, "text": str(error)[:4000]}
            raise flight.FlightServerError(str(error)[:4000], json.dumps(facts).encode()) from error
        except Exception as error:
            self.gauges.errors.labels("internal").inc()
            log.exception("failed", extra={"method": method})
            text = f"the server failed ({type(error).__name__}); see its log"
            raise flight.FlightInternalError(text, json.dumps({"kind": "internal", "text": text}).encode()) from error

    def _watch(self) -> None:
        """Close connections of stalled clients: each would hold a thread and a message for ever."""
        stalls, every = Stalls(self.port, self.limits.stall_seconds), min(1.0, self.limits.stall_seconds / 4)
        while not self.draining:
            time.sleep(every)
            waits: dict[str, float] = {}
            before = time.monotonic() - every
            with self._lock:
                for request in self._requests:
                    # Only those that wait for longer: checking the connections costs time.
                    if 0 < (since := request.sending_since) < before:
                        waits[request.peer] = min(since, waits.get(request.peer, since))
            try:
                for client in stalls.among(waits):
                    if hang_up(self.port, client):
                        self.gauges.stalled.inc()
                        log.warning("stalled", extra={"peer": client})
            except OSError as error:  # for example no descriptor left; the next check may succeed
                log.warning("unwatched", extra={"reason": str(error)})


def _peer(context: Any) -> str:  # noqa: ANN401  (a ServerCallContext)
    peer = context.peer()
    return name_of(peer.decode() if isinstance(peer, bytes) else str(peer))


def _json(body: bytes) -> Any:  # noqa: ANN401
    try:
        return json.loads(body or b"null")
    except (ValueError, RecursionError) as error:
        raise WrongTicket("the body of an action must be JSON") from error


def _plain(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).partition(" Detail:")[0].partition(" (while")[0].strip()
