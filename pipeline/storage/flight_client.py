"""Ask servers of `alexprep serve`: choose a server, retry, and fail over when one does not answer.

In:  "grpc://host:port,host2:port" (or grpc+tls://).    Out: answers, from any of the servers.
"""

import atexit
import json
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

# gRPC's own log lines on stderr say less than its errors, and strangers can cause them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import pyarrow as pa
from pyarrow import flight

from ..addresses import SERVED, Address
from ..errors import DataError, printable
from .credentials import TOKEN_FILE, ClearToken, call_options, credentials

T = TypeVar("T")
CALL_SECONDS = 2.0  # timeout of a request; doubled after each timeout
LEAVING_SECONDS = 2.0  # maximum wait of an exiting program for its requests in progress
LONGEST_REST = 60.0  # maximum retry delay, in seconds, that a server can ask for
FIRST_PATIENCE = 30.0  # seconds without any answer before a request about files fails
MOST_READ = 8 << 20  # maximum bytes of a file per request


_process: dict[str, int] = {}  # "id": ID of the process that owns the connections


class NotHere(DataError):
    """A server refuses, or cannot read its shards; another one may answer."""


class NotNeeded(DataError):
    """Nobody waits for this answer any more."""


@dataclass
class Server:
    """One server, its connection and its recent failures."""

    location: str
    busy: int = 0  # requests in progress
    failures: int = 0  # consecutive failures
    away_until: float = 0.0  # time.monotonic() before which it is not asked
    trouble: str = ""  # its last error message
    _client: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self) -> Any:  # noqa: ANN401  (a FlightClient)
        """Return the connection, made on first use; raise DataError in a forked process."""
        with self._lock:
            if _process.setdefault("id", os.getpid()) != os.getpid():
                raise DataError("a process forked from one that has called a server cannot call one: gRPC would hang; start it with spawn instead")
            if self._client is None:
                self._client = flight.connect(self.location, **credentials(self.location))
            return self._client

    def failed(self, trouble: str, least: float = 0.1) -> None:
        """Record a failure and back off. The pause is 2 * `least` seconds, doubled after each failure in a row, up to 50 * `least`."""
        with self._lock:
            self.failures += 1
            self.trouble = trouble
            self.away_until = time.monotonic() + least * min(2.0**self.failures, 50)
            # Reconnect next time: the old connection waits long before it tries again.
            self._client = None

    def rests(self, trouble: str, seconds: float) -> None:
        """Stop asking this server for `seconds`, as it requested."""
        self.trouble, self.away_until = trouble, time.monotonic() + seconds


@dataclass
class Attempt:
    """A request under way, and whether its answer is still wanted. Two attempts may share `cancelled`."""

    cancelled: threading.Event = field(default_factory=threading.Event)
    server: Server | None = None  # that has the request, or had it last


class Servers:
    """The servers of one data set. Several threads may ask concurrently."""

    def __init__(self, uri: str) -> None:
        """Parse "grpc://host:port,host2:port"; raise DataError for anything else. Connect later."""
        self.uri = uri
        self.servers = [Server(location) for location in locations(uri)]
        self._turn = 0
        self.left_out: dict[str, str] = {}  # servers that refused, and why
        self._closed = False
        self._answered = False  # whether any server has answered
        _all.add(self)
        self._lock = threading.Lock()

    def ask(
        self,
        work: Callable[[Any, Any], T],
        patience: float,
        seconds: float = CALL_SECONDS,
        attempt: "Attempt | None" = None,
        avoid: Server | None = None,
    ) -> T:
        """Return `work(client, call options)` from the first server that answers within `seconds`.

        Servers are asked one after another, `avoid` last; `attempt` knows which one has the request.
        Raise DataError if none answers for `patience` seconds, or if all refuse; raise NotNeeded
        once the attempt is cancelled or the servers are closed.
        """
        deadline = time.monotonic() + patience
        refused: dict[str, str] = {}
        while not (self._closed or (attempt is not None and attempt.cancelled.is_set())):
            left = deadline - time.monotonic()
            if left <= 0:
                raise DataError(self._silence(patience, refused))
            server = self._choose(avoid, refused)
            if server is None:
                if len(refused) == len(self.servers):
                    raise DataError("; ".join(dict.fromkeys(refused.values())))
                time.sleep(0.02)
                continue
            try:
                options = call_options(max(1.0, min(seconds, left)), server.location)
            except ClearToken:
                raise
            except DataError:
                if not self._answered:
                    raise
                time.sleep(0.1)  # the token file may be changing at this moment
                continue
            if attempt is not None:
                attempt.server = server
            try:
                with self._asked(server):
                    result = work(server.client(), options)
            except NotHere as error:
                refused[server.location] = f"{server.location}: {error}"
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, flight.FlightTimedOutError):
                    seconds *= 2  # the server may need longer: a cold cache, a large batch
                refusal = self._refusal(server, error)
                if refusal:
                    refused[server.location] = f"{server.location}: {refusal}"
            else:
                server.failures, self._answered = 0, True
                return result
        raise NotNeeded(f"{self.uri}: the request was cancelled")

    def act(
        self,
        kind: str,
        body: Any = None,  # noqa: ANN401  (JSON)
        patience: float = FIRST_PATIENCE,
        length: int | None = None,
        read: Callable[[bytes], Any] = bytes,
    ) -> Any:  # noqa: ANN401  (what `read` makes of it)
        """Return `read(answer)` of an action; `length` is the answer's bytes, if known.

        If the answer has another length, or if `read` raises NotHere, the next server is asked.
        """
        action = flight.Action(kind, json.dumps(body).encode())

        def work(client: Any, options: Any) -> Any:  # noqa: ANN401  (pyarrow's)
            found = b"".join(result.body.to_pybytes() for result in client.do_action(action, options))
            if length is not None and len(found) != length:
                raise NotHere(f"{len(found)} bytes came instead of {length}")
            return read(found)

        # In a thread, so that signals are handled while this waits.
        return begun(self.ask, work, patience).result()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Stop asking the servers."""
        self._closed = True

    def _choose(self, avoid: Server | None, refused: dict[str, str]) -> Server | None:
        """Return the server with the fewest requests in progress; None if none can be asked yet. Servers with equally few take turns."""
        now = time.monotonic()
        with self._lock:
            there = [server for server in self.servers if server.away_until <= now and server.location not in refused]
            there = [server for server in there if server is not avoid] or there
            if not there:
                return None
            self._turn += 1
            least = min(server.busy for server in there)
            equals = [server for server in there if server.busy == least]
            return equals[self._turn % len(equals)]

    @contextmanager
    def _asked(self, server: Server) -> Iterator[None]:
        with self._lock:
            server.busy += 1
        try:
            yield
        finally:
            with self._lock:
                server.busy -= 1

    def _refusal(self, server: Server, error: Exception) -> str:
        """Return why this server will not answer, "" if it may later; record the failure."""
        facts = _facts(error)
        if facts.get("kind") == "busy":
            server.rests(str(facts.get("text")), facts["retry_after"])
            return ""
        if facts.get("kind") in ("ticket", "data", "internal"):
            text = str(facts.get("text"))
            if facts["kind"] == "ticket":
                self.left_out[server.location] = text
            return text
        text = str(error).partition(". gRPC client debug context")[0].partition("Detail:")[0].strip()
        if isinstance(error, flight.FlightUnauthenticatedError | flight.FlightUnauthorizedError):
            trouble = f"it refuses us: {text or 'no good token'} ({TOKEN_FILE} names a file with the token)"
            server.failed(trouble, 0.5)
            return "" if self._answered else trouble  # the token may be changing at this moment
        server.failed(text or type(error).__name__, 1.0 if isinstance(error, flight.FlightTimedOutError) else 0.1)
        return ""

    def _silence(self, patience: float, refused: dict[str, str]) -> str:
        said = "; ".join(refused.get(server.location, f"{server.location}: {server.trouble or 'no answer'}") for server in self.servers)
        return f"no server has answered for {patience:.0f} s ({said}); is alexprep serve running there, and can it be reached?"


def _facts(error: Exception) -> dict[str, Any]:
    """Return the facts that a server sent with its refusal; {} if they cannot be parsed."""
    try:
        facts = dict(json.loads(getattr(error, "extra_info", b"") or b"{}"))
        facts["retry_after"] = min(max(0.0, float(facts.get("retry_after", 0.2))), LONGEST_REST)
    except (ValueError, TypeError, RecursionError):
        return {}
    return facts


def locations(uri: str) -> list[str]:
    """Return the locations in "grpc://host:port,host2:port"; raise DataError for anything else."""
    scheme, colon, rest = uri.partition("://")
    if f"{scheme}://" not in SERVED:
        raise DataError(f"{printable(uri)} is not a server address: expected grpc://HOST:PORT, or grpc+tls://HOST:PORT")
    # click turns a second grpc:// into grpc:/
    parts = (re.sub(rf"^{re.escape(scheme)}:/+", "", part.strip()) for part in rest.split(","))
    found = [f"{scheme}://{part}" for part in parts if part]
    for location in found:
        try:
            address = Address.parse(location.partition("://")[2])
            if not address.port or "@" in address.host:
                raise ValueError("a server address has a port and no user name")
        except ValueError as error:
            raise DataError(
                f"{printable(location)} is not a server address: expected {scheme}://HOST:PORT, or several as {scheme}://HOST:PORT,HOST:PORT"
            ) from error
    if not colon or not found:
        raise DataError(f"{printable(uri)} is not a server address: expected grpc://HOST:PORT")
    return list(dict.fromkeys(found))


def begun(work: Callable[..., T], *arguments: Any) -> Future[T]:  # noqa: ANN401
    """Run `work` in a daemon thread of its own and return its future.

    An executor would not do: Python waits for its threads when the program ends.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="alexprep-ask", daemon=True).start()
    return future


_all: weakref.WeakSet[Servers] = weakref.WeakSet()


@atexit.register
def _leave() -> None:
    """Close all servers, and wait up to LEAVING_SECONDS for requests in progress.

    A thread that returns from gRPC after Python has shut down would abort the program.
    """
    for servers in list(_all):
        servers.close()
    deadline = time.monotonic() + LEAVING_SECONDS
    while any(server.busy for servers in list(_all) for server in servers.servers) and time.monotonic() < deadline:
        time.sleep(0.005)
