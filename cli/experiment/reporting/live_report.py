"""Serve the page of runs on this machine while they train (`alextrain watch`)."""

import hashlib
import json
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path

from alexprep.model.report.report import curve_data, render
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.serving.quiet_http import QuietHandler, QuietServer

from ..run_folder import RunFolder
from .report_data import views

LOOPBACK = "127.0.0.1"


def serve(folders: Sequence[RunFolder], data: Path | None, port: int, announce: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; DataError if the server cannot listen on the port. `announce` is called with the page's address when the server listens."""
    try:
        server = QuietServer((LOOPBACK, port), _handler(folders, data))
    except OSError as error:
        raise DataError(f"cannot listen on {LOOPBACK}:{port}: {error.strerror}; give another --port, or 0 for any that is free") from error
    announce(f"http://{LOOPBACK}:{server.server_port}/")
    with server:
        server.serve_forever(poll_interval=0.2)


def _handler(folders: Sequence[RunFolder], data: Path | None) -> type[QuietHandler]:
    class Handler(QuietHandler):
        """Serves the page at / and the data of its curves at /data.json; no files of the disk."""

        timeout = 30  # seconds after which an idle connection is closed
        server_version = "alextrain"

        def do_GET(self) -> None:  # noqa: N802  (the name that http.server calls)
            try:
                self._respond()
            except (DataError, ValueError) as error:  # the run's files may be damaged
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", f"{error}\n".encode())
            except ConnectionError:
                self.close_connection = True  # the client has closed the connection

        def _respond(self) -> None:
            host = self.headers.get("Host", "").rsplit(":", 1)[0]
            # refuses a foreign host name that resolves to this address (DNS rebinding)
            if host not in (LOOPBACK, "localhost"):
                self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"ask 127.0.0.1\n")
            elif self.path == "/":
                self._answer(HTTPStatus.OK, "text/html; charset=utf-8", render(views(folders, data), live=True).encode())
            elif self.path == "/data.json":
                self._news()
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there are / and /data.json\n")

        def _news(self) -> None:
            tag = f'"{_state(folders)}"'
            if self.headers.get("If-None-Match") == tag:
                self._answer(HTTPStatus.NOT_MODIFIED, "application/json", b"", tag)
                return
            value = curve_data(views(folders, pictures=False))
            self._answer(HTTPStatus.OK, "application/json", json.dumps(value).encode(), tag)

        def _answer(self, status: HTTPStatus, kind: str, body: bytes, tag: str = "") -> None:
            self.send_response(status)
            if tag:
                self.send_header("ETag", tag)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _state(folders: Sequence[RunFolder]) -> str:
    """Return a digest that changes whenever a metrics or kernel file changes."""
    found = []
    for folder in folders:
        for path in (folder.metrics, *folder.kernels().values()):
            try:
                facts = path.stat()
            except OSError:
                continue
            found.append((str(path), facts.st_mtime_ns, facts.st_size))
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]
