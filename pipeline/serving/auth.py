"""Decide who may use a service: loopback only, or TLS with tokens or client certificates.

In:  addresses and files that the operator named.
Out: options and middleware for pyarrow.flight, or an error before anything listens.
"""

import hashlib
import hmac
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import flight

from ..addresses import Address
from ..errors import DataError
from ..storage.credentials import pem, tokens_in


@dataclass(frozen=True)
class Secrets:
    """Paths of the PEM files and of the token file."""

    cert: Path | None = None  # server certificate with its chain
    key: Path | None = None
    client_ca: Path | None = None  # CA of client certificates; if set, every client needs one
    tokens: Path | None = None  # one token per line; # begins a comment

    def check(self, address: Address) -> None:
        """Raise DataError if a file is missing, or if the files do not protect `address`. A loopback address needs no protection."""
        if (self.cert is None) != (self.key is None):
            raise DataError("TLS needs a certificate and its key: give --tls-cert and --tls-key")
        if self.client_ca is not None and self.cert is None:
            raise DataError("--tls-client-ca needs TLS: give --tls-cert and --tls-key too")
        if address.loopback:
            return
        if self.cert is None or (self.tokens is None and self.client_ca is None):
            raise DataError(
                f"{address} can be reached from other machines: that needs TLS (--tls-cert, --tls-key), and --tokens or --tls-client-ca to say "
                "who may ask. Without them, listen on 127.0.0.1"
            )

    def tls(self) -> dict[str, Any]:
        """Return the server's TLS options; none without a certificate. Raises DataError that names a file which cannot be read or is not PEM."""
        if self.cert is None or self.key is None:
            return {}
        options: dict[str, Any] = {"tls_certificates": [(pem(self.cert, "CERTIFICATE"), pem(self.key, "PRIVATE KEY"))]}
        if self.client_ca is not None:
            options |= {"verify_client": True, "root_certificates": pem(self.client_ca, "CERTIFICATE")}
        try:  # gRPC would only say that the server did not start
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key, password="")
        except (ssl.SSLError, OSError) as error:
            raise DataError(f"{self.key} is not the key of {self.cert}, or one of them is damaged or has a password: {error}") from error
        return options


class Tokens:
    """The tokens of a file; `reread` reads it again."""

    def __init__(self, path: Path) -> None:
        """Read the file; DataError if it cannot be used."""
        self.path = path
        self._hashes = self._read()

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self._hashes)

    def reread(self) -> None:
        """Read the file again; if it cannot be used, keep the tokens and raise DataError."""
        self._hashes = self._read()

    def hash_of(self, header: str) -> bytes | None:
        """Return the hash of the token in "Bearer TOKEN" if it is valid, None if not.

        The time taken reveals neither how much of the token was right nor which token it was:
        hashes are compared, and always with all of them.
        """
        scheme, _, token = header.partition(" ")
        given = hashlib.sha256(token.strip().encode("utf-8", "backslashreplace")).digest()
        return given if self.has(given) and scheme.lower() == "bearer" else None

    def has(self, given: bytes) -> bool:
        """Return whether the token with the hash `given` is still valid."""
        same = [hmac.compare_digest(given, known) for known in self._hashes]  # all: constant time
        return any(same)

    def _read(self) -> tuple[bytes, ...]:
        return tuple(hashlib.sha256(token.encode()).digest() for token in tokens_in(self.path))


class Admitted(flight.ServerMiddleware):  # type: ignore[misc]  # pyarrow has no types
    """A call with a valid token; the token is checked again while the call is answered."""

    def __init__(self, tokens: Tokens, given: bytes) -> None:
        """Keep the hash of the call's token."""
        super().__init__()
        self._tokens, self._given = tokens, given

    def check(self) -> None:
        """Raise FlightUnauthenticatedError if the token was revoked."""
        if not self._tokens.has(self._given):
            raise flight.FlightUnauthenticatedError("the token was revoked")


class Guard(flight.ServerMiddlewareFactory):  # type: ignore[misc]  # pyarrow has no types
    """Refuses every call without a valid token."""

    def __init__(self, tokens: Tokens, refused: Any) -> None:  # noqa: ANN401  (called at each refusal)
        """Check calls against `tokens`; call `refused` for each refusal."""
        super().__init__()
        self._tokens, self._refused = tokens, refused

    def start_call(self, _info: Any, headers: dict[str, list[str]]) -> Admitted:  # noqa: ANN401  (pyarrow's)
        """Raise FlightUnauthenticatedError unless the call has a valid token."""
        given = [value for name, values in headers.items() if name.lower() == "authorization" for value in values if isinstance(value, str)]
        found = [good for value in given if (good := self._tokens.hash_of(value)) is not None]
        if not found:
            self._refused()
            raise flight.FlightUnauthenticatedError("no good token")
        return Admitted(self._tokens, found[0])
