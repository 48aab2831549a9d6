"""Who may ask a service: loopback alone, or TLS with tokens or client certificates.

In:  addresses and files that the operator named.    Out: what pyarrow.flight is given, or an error before anything listens.
"""

import hashlib
import hmac
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import flight

from .errors import DataError
from .flights import pem, tokens_in


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Return HOST:PORT ([::1]:8815 for IPv6); ValueError for anything else. Port 0 is any that is free."""
        host, _, port = text.rpartition(":")
        bare = host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("["))
        if not host or bare or "/" in host or not (port.isascii() and port.isdecimal()) or int(port) >= 1 << 16:
            raise ValueError(f"an address is HOST:PORT, such as 127.0.0.1:8815; got {text!r}")
        return cls(host.strip("[]"), int(port))

    @property
    def loopback(self) -> bool:
        """Whether nobody but this machine can reach it: all that the name stands for is loopback."""
        try:
            found = {entry[4][0] for entry in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)}
        except OSError:
            return False
        return all(ipaddress.ip_address(str(one).partition("%")[0]).is_loopback for one in found)

    def __str__(self) -> str:
        """Return HOST:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Secrets:
    """Files of PEM and tokens."""

    cert: Path | None = None  # of the server, with its chain
    key: Path | None = None
    client_ca: Path | None = None  # who signs the certificates of clients: then each needs one
    tokens: Path | None = None  # one a line; # begins a remark

    def check(self, address: Address) -> None:
        """Raise DataError unless these protect such an address, or it needs no protection."""
        if (self.cert is None) != (self.key is None):
            raise DataError("TLS needs a certificate and its key: give --tls-cert and --tls-key")
        if self.client_ca is not None and self.cert is None:
            raise DataError("--tls-client-ca is of TLS: give --tls-cert and --tls-key too")
        if address.loopback:
            return
        if self.cert is None or (self.tokens is None and self.client_ca is None):
            raise DataError(
                f"{address} can be reached from other machines: that needs TLS (--tls-cert, --tls-key), and --tokens or --tls-client-ca to say "
                "who may ask. Without them, listen on 127.0.0.1"
            )

    def tls(self) -> dict[str, Any]:
        """Return the server's TLS options, none without a certificate; DataError names a file that cannot be read or is no PEM."""
        if self.cert is None or self.key is None:
            return {}
        options: dict[str, Any] = {"tls_certificates": [(pem(self.cert, "CERTIFICATE"), pem(self.key, "PRIVATE KEY"))]}
        if self.client_ca is not None:
            options |= {"verify_client": True, "root_certificates": pem(self.client_ca, "CERTIFICATE")}
        try:  # gRPC would say no more than that the server did not start
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key, password="")
        except (ssl.SSLError, OSError) as error:
            raise DataError(f"{self.key} is not the key of {self.cert}, or one of them is damaged or has a password: {error}") from error
        return options


class Tokens:
    """The tokens of a file, which is read again when the operator says so."""

    def __init__(self, path: Path) -> None:
        """Read the file; DataError if it cannot be used."""
        self._path = path
        self._hashes = self._read()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._hashes)

    def reread(self) -> None:
        """Take what the file has now; DataError if it cannot be used, and then the tokens are as they were."""
        self._hashes = self._read()

    def allow(self, header: str) -> bool:
        """Tell whether "Bearer TOKEN" has one of them, in a time that does not say how much of it was right."""
        scheme, _, token = header.partition(" ")
        given = hashlib.sha256(token.strip().encode()).digest()
        known = [hmac.compare_digest(given, token) for token in self._hashes]  # all of them are looked at
        return scheme.lower() == "bearer" and any(known)

    def _read(self) -> tuple[bytes, ...]:
        return tuple(hashlib.sha256(token.encode()).digest() for token in tokens_in(self._path))


class Guard(flight.ServerMiddlewareFactory):  # type: ignore[misc]  # pyarrow has no types
    """Refuses every call without a good token."""

    def __init__(self, tokens: Tokens, refused: Any) -> None:  # noqa: ANN401  (called of each refusal)
        """Ask `tokens`."""
        super().__init__()
        self._tokens, self._refused = tokens, refused

    def start_call(self, _info: Any, headers: dict[str, list[str]]) -> None:  # noqa: ANN401  (pyarrow's)
        """Raise unless the call has one."""
        given = [value for name, values in headers.items() if name.lower() == "authorization" for value in values]
        if not any(isinstance(value, str) and self._tokens.allow(value) for value in given):
            self._refused()
            raise flight.FlightUnauthenticatedError("no good token")
