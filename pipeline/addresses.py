"""Parse addresses of servers (HOST:PORT), and tell which ones stay on this machine."""

import ipaddress
import socket
from contextlib import suppress
from dataclasses import dataclass

SERVED = ("grpc://", "grpc+tls://")  # URI schemes of `alexprep serve`


@dataclass(frozen=True)
class Address:
    """HOST:PORT of a server."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parse HOST:PORT ([::1]:8815 for IPv6); raise ValueError for anything else. Port 0 means any free port."""
        host, _, port = text.rpartition(":")
        bare = host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("["))
        if not host or bare or "/" in host or not (port.isascii() and port.isdecimal()) or int(port) >= 1 << 16:
            raise ValueError(f"an address is HOST:PORT, such as 127.0.0.1:8815; got {text!r}")
        return cls(host.strip("[]"), int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it: the host resolves to loopback addresses only."""
        try:
            found = {entry[4][0] for entry in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)}
        except OSError:
            return False
        return all(ipaddress.ip_address(str(one).partition("%")[0]).is_loopback for one in found)

    def __str__(self) -> str:
        """Return HOST:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def stays_here(self) -> bool:
        """Whether data sent there stays on this machine.

        True for a loopback IP address and for "localhost". Other names are not looked up: the
        connection looks the name up again, and may get another answer.
        """
        if self.host.lower() == "localhost":
            return True
        with suppress(ValueError):
            return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback
        return False
