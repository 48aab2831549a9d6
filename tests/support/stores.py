"""An object store on this machine, and a proxy that fails and dawdles."""

import http.client
import http.server
import random
import socket
import threading
import time

from alexprep.pipeline.storage.uri import location

KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_EC2_METADATA_DISABLED": "true"}


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def uri(port, below):
    return f"s3://data/{below}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"


def upload(root, port, below):
    for path in root.rglob("*"):
        if path.is_file():
            (location(uri(port, below)) / str(path.relative_to(root))).put(path.read_bytes())


class Proxy:
    """Hands requests on to an S3 server; some fail, some break off halfway, all are a little late."""

    def __init__(self, port, failing, seed=0):
        rng, proxy, passed = random.Random(seed), self, ("expect", "transfer-encoding", "content-length")
        self.puts, self.failed = [], 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def body(self):
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                data = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return data

            def handle_any(self):
                time.sleep(0.002)
                body = self.body()
                strike = rng.random()
                if self.command == "PUT":
                    proxy.puts.append(self.path)
                if strike < failing:
                    proxy.failed += 1
                    if strike < failing / 2:
                        self.close_connection = True
                        self.connection.shutdown(socket.SHUT_RDWR)
                        return
                    self.send_response(503)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection("127.0.0.1", port)
                connection.request(self.command, self.path, body, {k: v for k, v in self.headers.items() if k.lower() not in passed})
                answer = connection.getresponse()
                data = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server", "content-length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)
                connection.close()

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

            def log_message(self, *arguments):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address):
                pass  # a client that a fault has cut off

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
