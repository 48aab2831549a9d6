"""What the tests of several rooms share."""

import http.client
import http.server
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from alexprep.pipeline import Loader, compute_stats, read_manifest
from alexprep.pipeline.imaging import kernels
from hypothesis import settings

from ..support.loaders import CROP, KINDS
from ..support.stores import KEYS, Proxy, free_port

settings.register_profile("any time", deadline=None)  # on a busy machine an example may take longer than another
settings.load_profile("any time")


def pytest_itemcollected(item):
    """Loaders' and services' threads go on while Hypothesis draws an example, and beartype, which checks what they call, uses `random`."""
    item.add_marker(pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies"))


@pytest.fixture
def copy(shards, tmp_path):
    """A data set of one's own."""
    return shutil.copytree(shards / "jpeg", tmp_path / "copy")


@pytest.fixture
def every_loader(shards, encoding, kind, mean, layout):
    stats = compute_stats(read_manifest(shards / encoding))
    return Loader(shards / encoding, crop=CROP, mean=mean, layout=layout, divide=1.1, seed=3, stats=stats, **KINDS[kind])


@pytest.fixture(params=["_kernels", "_kernels_avx2"])
def compiled(request, monkeypatch):
    """Both builds of the same loops, one after the other."""
    if not kernels.COMPILED:
        pytest.skip("installed without a compiler")
    if request.param == "_kernels_avx2" and not import_module("alexprep.pipeline.imaging._kernels").runs_avx2():
        pytest.skip("a processor without AVX2")
    module = import_module(f"alexprep.pipeline.imaging.{request.param}")
    monkeypatch.setattr(kernels, "_kernels", module)
    return module


@pytest.fixture(scope="session")
def store():
    """The port of an S3 server with the bucket `data`."""
    os.environ.update(KEYS)
    port = free_port()
    program = Path(sys.executable).parent / "moto_server"
    process = subprocess.Popen([program, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                break
        except OSError:
            time.sleep(0.1)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("PUT", "/data")
    assert connection.getresponse().status == 200
    connection.close()
    yield port
    process.kill()
    process.wait()


@pytest.fixture
def proxy(store):
    proxy = Proxy(store, failing=0.08)
    yield proxy
    proxy.close()
