"""Find and close the connections of stalled clients, through the operating system (Linux).

In:  the server's port.    Out: clients, named host:port.

Flight offers neither: it can neither see nor end a write that the client does not read.
"""

import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from ..addresses import Address

# Bytes that show that a client reads; fewer may be pings, which its operating system answers.
LEAST_TAKEN = 64 << 10
PATIENCE = 10  # seconds allowed for a whole message, as a multiple of `seconds`
_FACTS = 256  # bytes of struct tcp_info to read; enough for the field below
_ACKNOWLEDGED = 120  # offset of tcpi_bytes_acked, uint64 (linux/tcp.h)


def name_of(peer: str) -> str:
    """Return host:port, without the zone, of a gRPC peer name. Examples of peer names: ipv4:1.2.3.4:5, ipv6:[::1]:5, ipv6:%5Bfe80::1%252%5D:5."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return _name(host.strip("[]").partition("%")[0], int(port))


class Stalls:
    """Finds clients that have stopped reading; `among` is called from time to time."""

    def __init__(self, port: int, seconds: float) -> None:
        """Watch the connections to `port`; a client stalls if it takes nothing for `seconds`."""
        self._port, self._seconds = port, seconds
        self._moved: dict[str, tuple[int, float]] = {}  # client -> (bytes taken, time of progress)

    def among(self, waits: Mapping[str, float]) -> list[str]:
        """Return the stalled clients.

        `waits` maps each client to when its oldest unread message was sent (`time.monotonic`). A slow client is not
        stalled as long as it takes LEAST_TAKEN bytes every `seconds`, but it must take a whole message within PATIENCE
        times `seconds`. Raises OSError if the system cannot tell, for example because no descriptor is left.
        """
        counts, now = taken(self._port) if waits else {}, time.monotonic()
        before, self._moved = self._moved, {}
        stalled = []
        for client, since in waits.items():
            count = counts.get(client, 0)
            last, when = before.get(client, (0, since))
            last = min(last, count)  # fewer bytes than before mean a new connection
            if count >= last + LEAST_TAKEN:
                last, when = count, now
            self._moved[client] = last, when
            if max(since, when) + self._seconds < now or since + PATIENCE * self._seconds < now:
                stalled.append(client)
        return stalled


def taken(port: int) -> dict[str, int]:
    """Return the bytes that each client connected to `port` has acknowledged."""
    found = {}
    for client, connection in _connections(port):
        with suppress(OSError, struct.error):  # the connection has ended
            facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _FACTS)
            found[client] = int(struct.unpack_from("=Q", facts, _ACKNOWLEDGED)[0])
    return found


def hang_up(port: int, only: str | None = None) -> bool:
    """Close all connections to `port`, or client `only`'s; return whether there was one."""
    found = False
    for client, connection in _connections(port):
        if only in (None, client):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
                found = True
    return found


def _connections(port: int) -> Iterator[tuple[str, socket.socket]]:
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError, ValueError):  # closed by now, not a socket, or not connected
            if not entry.is_socket():
                continue
            # The family given here does not matter.
            with socket.fromfd(int(entry.name), socket.AF_INET6, socket.SOCK_STREAM) as connection:
                here, there = connection.getsockname(), connection.getpeername()
                if isinstance(there, tuple) and here[1] == port:  # a Unix socket's name is a str
                    yield _name(there[0], there[1]), connection


def _name(host: str, port: int) -> str:
    return str(Address(host.removeprefix("::ffff:"), port))  # the prefix of IPv4 on an IPv6 socket
