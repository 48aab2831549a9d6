"""Who may ask a service: loopback alone, or TLS with tokens or client certificates.

In:  addresses and files that the operator named.    Out: what pyarrow.flight is given, or an error before anything listens.
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
from ..storage.flight_client import pem, tokens_in


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
        self.path = path
        self._hashes = self._read()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._hashes)

    def reread(self) -> None:
        """Take what the file has now; DataError if it cannot be used, and then the tokens are as they were."""
        self._hashes = self._read()

    def hash_of(self, header: str) -> bytes | None:
        """Return the hash of the token in "Bearer TOKEN" if it is one of them, None if not.

        How long it takes says neither how much of the token was right nor which one it was: hashes are compared, and with all of them.
        """
        scheme, _, token = header.partition(" ")
        given = hashlib.sha256(token.strip().encode("utf-8", "backslashreplace")).digest()
        return given if self.has(given) and scheme.lower() == "bearer" else None

    def has(self, given: bytes) -> bool:
        """Tell whether the token with that hash is still one of them."""
        same = [hmac.compare_digest(given, known) for known in self._hashes]  # with all of them, not up to the first
        return any(same)

    def _read(self) -> tuple[bytes, ...]:
        return tuple(hashlib.sha256(token.encode()).digest() for token in tokens_in(self.path))


class Admitted(flight.ServerMiddleware):  # type: ignore[misc]  # pyarrow has no types
    """A call with a good token, which is looked for again while it is answered."""

    def __init__(self, tokens: Tokens, given: bytes) -> None:
        """Remember the hash of its token."""
        super().__init__()
        self._tokens, self._given = tokens, given

    def check(self) -> None:
        """Raise FlightUnauthenticatedError if the token was taken back."""
        if not self._tokens.has(self._given):
            raise flight.FlightUnauthenticatedError("the token was taken back")


class Guard(flight.ServerMiddlewareFactory):  # type: ignore[misc]  # pyarrow has no types
    """Refuses every call without a good token."""

    def __init__(self, tokens: Tokens, refused: Any) -> None:  # noqa: ANN401  (called of each refusal)
        """Ask `tokens`."""
        super().__init__()
        self._tokens, self._refused = tokens, refused

    def start_call(self, _info: Any, headers: dict[str, list[str]]) -> Admitted:  # noqa: ANN401  (pyarrow's)
        """Raise unless the call has one."""
        given = [value for name, values in headers.items() if name.lower() == "authorization" for value in values if isinstance(value, str)]
        found = [good for value in given if (good := self._tokens.hash_of(value)) is not None]
        if not found:
            self._refused()
            raise flight.FlightUnauthenticatedError("no good token")
        return Admitted(self._tokens, found[0])
