"""This process's connections as the system knows them: what a client has taken, and their end. On Linux.

Flight tells neither: it can neither see nor end a write that nobody reads. A client is called host:port here.
"""

import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from ..addresses import Address

LEAST_TAKEN = 64 << 10  # bytes that tell of a client that reads, and not of a ping that its system answers
PATIENCE = 10  # times the seconds in which something must be taken, for all of a message
_FACTS = 256  # bytes of struct tcp_info, at least those that are looked at
_ACKNOWLEDGED = 120  # where it has tcpi_bytes_acked, uint64 (linux/tcp.h)


def name_of(peer: str) -> str:
    """Return what is called ipv4:1.2.3.4:5, ipv6:[::1]:5 or ipv6:%5Bfe80::1%252%5D:5 by gRPC; the name has no zone."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return _name(host.strip("[]").partition("%")[0], int(port))


class Stalls:
    """Finds the clients that take nothing of what waits for them, looked at from time to time."""

    def __init__(self, port: int, seconds: float) -> None:
        """Look at the connections that came in at `port`, for who takes nothing for so long."""
        self._port, self._seconds = port, seconds
        self._moved: dict[str, tuple[int, float]] = {}  # what each had taken, and when that was seen to be more than before

    def among(self, waits: Mapping[str, float]) -> list[str]:
        """Return those of the clients that stall, of whom is said since when (`time.monotonic`) their oldest message waits to be taken.

        A slow client does not, as long as LEAST_TAKEN go over its connection meanwhile; but it must have a message in PATIENCE times as long.
        OSError if the system cannot tell now, as when there is no descriptor left.
        """
        counts, now = taken(self._port) if waits else {}, time.monotonic()
        before, self._moved = self._moved, {}
        stalled = []
        for client, since in waits.items():
            count = counts.get(client, 0)
            last, when = before.get(client, (0, since))
            last = min(last, count)  # fewer than before: it is another connection
            if count >= last + LEAST_TAKEN:
                last, when = count, now
            self._moved[client] = last, when
            if max(since, when) + self._seconds < now or since + PATIENCE * self._seconds < now:
                stalled.append(client)
        return stalled


def taken(port: int) -> dict[str, int]:
    """Return how many bytes the system of each client that came in at `port` has acknowledged."""
    found = {}
    for client, connection in _connections(port):
        with suppress(OSError, struct.error):  # it has ended
            facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _FACTS)
            found[client] = int(struct.unpack_from("=Q", facts, _ACKNOWLEDGED)[0])
    return found


def hang_up(port: int, only: str | None = None) -> bool:
    """Close the connections that came in at `port`, or only that client's. Tell whether there was any."""
    found = False
    for client, connection in _connections(port):
        if only in (None, client):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
                found = True
    return found


def _connections(port: int) -> Iterator[tuple[str, socket.socket]]:
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError, ValueError):  # closed meanwhile, no socket, or not connected
            if not entry.is_socket():
                continue
            with socket.fromfd(int(entry.name), socket.AF_INET6, socket.SOCK_STREAM) as connection:  # the family is not looked at
                here, there = connection.getsockname(), connection.getpeername()
                if isinstance(there, tuple) and here[1] == port:  # a path is a str
                    yield _name(there[0], there[1]), connection


def _name(host: str, port: int) -> str:
    return str(Address(host.removeprefix("::ffff:"), port))  # IPv4, through a socket of IPv6
