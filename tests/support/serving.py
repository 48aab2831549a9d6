"""Servers of their own, and what is asked of them."""

import contextlib
import datetime as dt
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import torch
from alexprep.pipeline import LoaderConfig, read_manifest
from alexprep.pipeline.serving.protocol import Ticket, digest
from alexprep.pipeline.shards.stats import stats_for
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import strategies as st
from pyarrow import flight

FORMS = ("records", "views", "batches")
CROP = 48  # of the 72-pixel records of `data`
SMALL_CROP = 24  # of the 32-pixel records of `folder`
TOKEN = "a-token-of-the-tests-0123456789"


class Process:
    """A server of its own."""

    def __init__(self, directory, *options, port=0):
        program = [Path(sys.executable).parent / "alexprep", "serve", directory, "--bind", f"127.0.0.1:{port}", "--http", "127.0.0.1:0", "--json"]
        self.process = subprocess.Popen([*program, *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        facts = json.loads(line)
        self.location, self.http = facts["location"], facts["http"]
        self.port = int(self.location.rpartition(":")[2])

    def get(self, path):
        """Status and text of an HTTP answer."""
        try:
            with urllib.request.urlopen(self.http + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def status(self, **options):
        return json.loads(b"".join(r.body.to_pybytes() for r in flight.connect(self.location, **options).do_action(flight.Action("status", b""))))

    def resident(self):
        """Bytes of memory that it has."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, number=signal.SIGTERM):
        """End it; its code and its log."""
        self.process.send_signal(number)
        log = self.process.communicate(timeout=60)[1]
        return self.process.returncode, log


def the_same(one, other):
    """Every number of two batches, and how they lie in memory."""
    return (
        torch.equal(one.images, other.images)
        and (one.images.dtype, one.images.stride()) == (other.images.dtype, other.images.stride())
        and torch.equal(one.labels, other.labels)
        and torch.equal(one.records, other.records)
    )


configs = st.fixed_dictionaries(
    {
        "batch_size": st.sampled_from([4, 12, 20]),
        "seed": st.integers(0, 2**64 - 1),
        "world_size": st.sampled_from([1, 2, 4]),
        "crop": st.sampled_from([CROP, 72, 31]),
        "mean": st.sampled_from(["pixel", "center", "channel", "none"]),
        "colour": st.sampled_from([0.0, 0.1]),
        "divide": st.sampled_from([1.0, 1.1]),
        "mirror": st.booleans(),
        "shuffle": st.sampled_from(["full", "block", "none"]),
        "layout": st.sampled_from(["CHW", "channels_last"]),
        "dtype": st.sampled_from(["float32", "bfloat16", "float16"]),
    }
)


def ticket_of(folder, form="views", step=0, **options):
    manifest = read_manifest(folder)
    return Ticket(digest(manifest, stats_for(manifest, "train")), form, step, LoaderConfig(**{"crop": CROP, "batch_size": 8, **options}))


@contextlib.contextmanager
def slow(port, rate):
    """A way to a server, by which so many bytes a second come back; its port."""
    ends = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def there(client, behind):
            with contextlib.suppress(OSError):
                while data := client.recv(1 << 16):
                    behind.sendall(data)

        def back():
            client, behind = listening.accept()[0], socket.socket()
            with client, behind, contextlib.suppress(OSError), contextlib.ExitStack() as last:
                last.callback(client.shutdown, socket.SHUT_RDWR)  # `there` still reads of it
                behind.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
                behind.connect(("127.0.0.1", port))
                threading.Thread(target=there, args=(client, behind), daemon=True).start()
                while not ends.is_set() and (data := behind.recv(rate // 50)):
                    client.sendall(data)
                    time.sleep(len(data) / rate)

        threading.Thread(target=back, daemon=True).start()
        yield listening.getsockname()[1]
        ends.set()


def certificates(folder):
    """A CA, and certificates of it for 127.0.0.1 and for a client; files by name."""
    now = dt.datetime.now(dt.UTC)
    made = {}

    def make(name, issuer=None):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signer, signer_key = (subject, key) if issuer is None else (made[issuer][0].subject, made[issuer][1])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(signer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=1))
        builder = builder.not_valid_after(now + dt.timedelta(days=9)).add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
        if issuer:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
            builder = builder.add_extension(names, critical=False)
        made[name] = builder.sign(signer_key, hashes.SHA256()), key
        (folder / f"{name}.crt").write_bytes(made[name][0].public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        (folder / f"{name}.key").touch(mode=0o600)
        (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))

    make("ca")
    make("server", "ca")
    make("client", "ca")
    make("stranger")
    return folder


def secret(path, content):
    path.touch(mode=0o600)
    path.write_text(content)
    return path
