"""Servers of `alexprep serve`, as seen from a trainer: which one is asked, and what to do when it does not answer.

In:  "grpc://host:port,host2:port" (or grpc+tls://).    Out: answers, whichever server they came from.
"""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import flight

from .errors import DataError, printable

T = TypeVar("T")
CALL_SECONDS = 120.0  # that one answer may take in all
FIRST_PATIENCE = 30.0  # seconds without any answer to a question about files
MOST_READ = 8 << 20  # bytes of a file asked for at once
TOKEN_FILE, CA, CERT, KEY = "ALEXPREP_TOKEN_FILE", "ALEXPREP_CA", "ALEXPREP_CLIENT_CERT", "ALEXPREP_CLIENT_KEY"


_process: dict[str, int] = {}  # whose connections there are


class NotHere(DataError):
    """A server refuses, or cannot read its shards; another one may answer."""


@dataclass
class Server:
    """One server: how it has been doing."""

    location: str
    busy: int = 0  # questions that wait for its answer
    failures: int = 0  # in a row
    away_until: float = 0.0  # not asked before
    trouble: str = ""  # what it said last
    _client: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self) -> Any:  # noqa: ANN401  (a FlightClient)
        """Return the connection, made when it is first needed."""
        with self._lock:
            if _process.setdefault("id", os.getpid()) != os.getpid():
                raise DataError("a process that has asked a service cannot be forked into one that does: gRPC would hang; start it anew instead")
            if self._client is None:
                self._client = flight.connect(self.location, **_credentials(self.location))
            return self._client

    def failed(self, trouble: str, least: float = 0.1) -> None:
        """Leave it alone, the longer the more often it failed: twice `least` seconds at first, 50 times in the end."""
        with self._lock:
            self.failures += 1
            self.trouble = trouble
            self.away_until = time.monotonic() + least * min(2.0**self.failures, 50)
            self._client = None  # a new connection next time: the old one waits long before it tries again

    def rests(self, trouble: str, seconds: float) -> None:
        """Leave it alone as long as it asked for."""
        self.trouble, self.away_until = trouble, time.monotonic() + seconds


class Servers:
    """The servers of one data set. Threads may ask at once."""

    def __init__(self, uri: str) -> None:
        """Take "grpc://host:port,host2:port"; DataError for anything else. Nothing is connected yet."""
        self.uri = uri
        self.servers = [Server(location) for location in locations(uri)]
        self._turn = 0
        self._closed = False
        self._answered = False  # by any of them
        self._lock = threading.Lock()

    def ask(
        self,
        work: Callable[[Any, Any], T],
        patience: float,
        seconds: float = CALL_SECONDS,
        asked: list[Server] | None = None,
        avoid: Server | None = None,
        stop: threading.Event | None = None,
    ) -> T:
        """Return `work(client, call options)` of the first server that does it in so many seconds, asking one after another.

        DataError if none answers for `patience` seconds, or if all refuse. Who is asked is put into `asked`; `avoid` is asked last; nobody
        any more once `stop` is set.
        """
        deadline = time.monotonic() + patience
        refused: dict[str, str] = {}
        while not (self._closed or (stop is not None and stop.is_set())):
            left = deadline - time.monotonic()
            if left <= 0:
                raise DataError(self._silence(patience, refused))
            server = self._choose(avoid, refused)
            if server is None:
                if len(refused) == len(self.servers):
                    raise DataError("; ".join(dict.fromkeys(refused.values())))
                time.sleep(0.02)
                continue
            if asked is not None:
                asked.append(server)
            try:
                with self._asked(server):
                    result = work(server.client(), _options(max(1.0, min(seconds, left))))
            except NotHere as error:
                refused[server.location] = f"{server.location}: {error}"
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, flight.FlightTimedOutError):
                    seconds *= 2  # it may need longer: a cold cache, a large batch
                refusal = self._refusal(server, error)
                if refusal:
                    refused[server.location] = f"{server.location}: {refusal}"
            else:
                server.failures, self._answered = 0, True
                return result
        raise NotHere(f"{self.uri} is not asked any more")

    def act(self, kind: str, body: Any = None, patience: float = FIRST_PATIENCE, length: int | None = None) -> bytes:  # noqa: ANN401  (JSON)
        """Return what an action gives, of that length if it is known."""
        action = flight.Action(kind, json.dumps(body).encode())

        def work(client: Any, options: Any) -> bytes:  # noqa: ANN401  (pyarrow's)
            found = b"".join(result.body.to_pybytes() for result in client.do_action(action, options))
            if length is not None and len(found) != length:
                raise NotHere(f"{len(found)} bytes came instead of {length}")
            return found

        return self.ask(work, patience, min(CALL_SECONDS, patience))

    def close(self) -> None:
        """Ask no more."""
        self._closed = True

    def _choose(self, avoid: Server | None, refused: dict[str, str]) -> Server | None:
        """Return the server with the fewest questions, in turn among equals; None if none can be asked now."""
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
        """Return why this server will not answer the question, nothing if it may later; and remember that it did not."""
        try:
            facts = json.loads(getattr(error, "extra_info", b"") or b"{}")
        except ValueError:
            facts = {}
        if facts.get("kind") == "busy":
            server.rests(str(facts.get("text")), float(facts.get("retry_after", 0.2)))
            return ""
        if facts.get("kind") in ("ticket", "data", "internal"):
            return str(facts.get("text"))
        text = str(error).partition(". gRPC client debug context")[0].partition("Detail:")[0].strip()
        if isinstance(error, flight.FlightUnauthenticatedError | flight.FlightUnauthorizedError):
            trouble = f"it refuses us: {text or 'no good token'} ({TOKEN_FILE} names a file with the token)"
            server.failed(trouble, 0.5)
            return "" if self._answered else trouble  # a token may just be changing
        server.failed(text or type(error).__name__)
        return ""

    def _silence(self, patience: float, refused: dict[str, str]) -> str:
        said = "; ".join(refused.get(server.location, f"{server.location}: {server.trouble or 'no answer'}") for server in self.servers)
        return f"no server has answered for {patience:.0f} s ({said}); is alexprep serve running there, and can it be reached?"


def locations(uri: str) -> list[str]:
    """Return the locations in "grpc://host:port,host2:port"; DataError for anything else."""
    scheme, colon, rest = uri.partition("://")
    parts = (re.sub(rf"^{re.escape(scheme)}:/+", "", part.strip()) for part in rest.split(","))  # click makes grpc:/ of a second grpc://
    found = [f"{scheme}://{part}" for part in parts if part]
    for location in found:
        host, _, port = location.partition("://")[2].rpartition(":")
        if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 1 << 16 or "/" in host or "@" in host:
            raise DataError(f"{printable(location)} is no server: expected {scheme}://HOST:PORT, or several as {scheme}://HOST:PORT,HOST:PORT")
    if not colon or not found:
        raise DataError(f"{printable(uri)} names no server: expected grpc://HOST:PORT")
    return list(dict.fromkeys(found))


def _credentials(location: str) -> dict[str, Any]:
    """Return what a connection needs of TLS, from files that the environment names."""
    if not location.startswith("grpc+tls://"):
        return {}
    names = {"tls_root_certs": CA, "cert_chain": CERT, "private_key": KEY}
    return {option: _secret(name) for option, name in names.items() if os.environ.get(name)}


def _secret(name: str) -> bytes:
    path = Path(os.environ[name])
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}, which {name} names, cannot be read: {error.strerror}") from error


def _options(seconds: float) -> Any:  # noqa: ANN401  (FlightCallOptions)
    """Return the options of a call; the token is read each time, since tokens change."""
    headers = [(b"authorization", b"Bearer " + _secret(TOKEN_FILE).strip())] if os.environ.get(TOKEN_FILE) else []
    return flight.FlightCallOptions(timeout=seconds, headers=headers)
