"""Credentials of a connection to `alexprep serve`: TLS certificates and bearer tokens, from files that the environment names."""

import os
import re
import stat
import warnings
from pathlib import Path
from typing import Any

from pyarrow import flight

from ..addresses import Address
from ..errors import DataError
from .local import read_local

SHORTEST = 16  # minimum characters of a token
MOST_SECRET = 16 << 20  # maximum bytes of a file of tokens or certificates
TOKEN_FILE, CA, CERT, KEY = "ALEXPREP_TOKEN_FILE", "ALEXPREP_CA", "ALEXPREP_CLIENT_CERT", "ALEXPREP_CLIENT_KEY"
# A token: printable ASCII without spaces, since it goes into a header.
_TOKEN = re.compile(rf"[!-~]{{{SHORTEST},512}}")


class ClearToken(DataError):
    """A token would be sent over a connection that others can read."""


class ExposedToken(UserWarning):
    """A file with tokens can be read, or changed, by others."""


def credentials(location: str) -> dict[str, Any]:
    """Return the TLS options of a connection, from the files that the environment names.

    Without TLS, return an option that disables HTTP proxies, which could read the data.
    """
    if not location.startswith("grpc+tls://"):
        return {"generic_options": [("grpc.enable_http_proxy", 0)]}
    wanted = {"tls_root_certs": (CA, "CERTIFICATE"), "cert_chain": (CERT, "CERTIFICATE"), "private_key": (KEY, "PRIVATE KEY")}
    return {option: pem(Path(os.environ[name]), what) for option, (name, what) in wanted.items() if os.environ.get(name)}


def pem(path: Path, what: str) -> bytes:
    """Return the content of a PEM file; `what` is "CERTIFICATE" or "PRIVATE KEY".

    Raise DataError, which names the file, if it holds none or cannot be read.
    """
    try:
        data = read_local(path, MOST_SECRET)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if not re.search(rb"-----BEGIN [A-Z ]*" + what.encode() + b"-----", data):
        raise DataError(f"{path} has no {what.lower()} in PEM: it should have a line -----BEGIN {what}-----")
    return data


def tokens_in(path: Path) -> list[str]:
    """Return the tokens of a file: one per line; lines that begin with # are comments.

    Raise DataError if there is no token, or if a line is not a valid token.
    """
    try:
        lines = read_local(path, MOST_SECRET).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as tokens: {error}") from error
    tokens = {number: line.strip() for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")}
    wrong = next((number for number, token in tokens.items() if not _TOKEN.fullmatch(token)), None)
    if wrong is not None or not tokens:
        where = f"line {wrong} is not a token" if wrong is not None else "the file has no token"
        rule = f"a token is {SHORTEST} to 512 characters without spaces, one per line"
        raise DataError(f"{path}: {rule}; {where} (openssl rand -hex 32 makes one)")
    return list(tokens.values())


def exposed(path: Path) -> str | None:
    """Return a warning if others can read or change a file of secrets, None if not."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None  # reading the file will report the error
    if not mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        return None
    return f"{path} has mode {stat.S_IMODE(mode):04o}: others can {'change' if mode & (stat.S_IWOTH | stat.S_IWGRP) else 'read'} it; chmod 600 {path}"


def call_options(seconds: float, location: str) -> Any:  # noqa: ANN401  (FlightCallOptions)
    """Return the options of a call; the token is read for each call, since tokens change.

    Raise ClearToken if there is a token and the connection is not encrypted, unless it stays on this machine.
    """
    path = os.environ.get(TOKEN_FILE)
    headers = []
    if path:
        scheme, _, address = location.partition("://")
        if scheme != "grpc+tls" and not Address.parse(address).stays_here:
            raise ClearToken(
                f"{location} is not encrypted, and {TOKEN_FILE} names a token, which everybody on the way could read: "
                f"use grpc+tls://{address}, or unset {TOKEN_FILE}"
            )
        if warning := exposed(Path(path)):
            warnings.warn(warning, ExposedToken, stacklevel=2)
        headers = [(b"authorization", b"Bearer " + tokens_in(Path(path))[0].encode())]
    return flight.FlightCallOptions(timeout=seconds, headers=headers)
