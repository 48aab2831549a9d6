"""Servers that several files ask."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alexprep.pipeline.addresses import Address
from alexprep.pipeline.serving.handlers import RequestHandler
from alexprep.pipeline.serving.server import Service

from ...support.images import make_images
from ...support.serving import Process
from ...support.shards import make_shards, training_shards, write_statistics


@pytest.fixture
def server(request):
    """Starts servers, and ends those that are left."""
    started = []

    def start(*arguments, **options):
        started.append(Process(*arguments, **options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGCONT)
            one.process.kill()
            one.process.communicate()


@pytest.fixture(scope="package")
def data(tmp_path_factory):
    """Shards with statistics, in both encodings, and a service of each in this process."""
    root = tmp_path_factory.mktemp("served")
    jpeg = training_shards(root, 40)
    make_shards(root / "images", root / "raw", size=72, encoding="raw")
    write_statistics(root / "raw")
    services = {name: Service(RequestHandler(str(folder)), Address("127.0.0.1", 0)) for name, folder in {"jpeg": jpeg, "raw": root / "raw"}.items()}
    yield {"jpeg": (jpeg, services["jpeg"].location), "raw": (root / "raw", services["raw"].location)}
    for service in services.values():
        service.drain(1)


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    """Small shards."""
    root = tmp_path_factory.mktemp("secrets")
    make_images(root / "images", {"train/ant": 40, "train/bee": 40, "val/ant": 4, "val/bee": 4})
    make_shards(root / "images", root / "shards", size=32)
    return root / "shards"


@pytest.fixture
def started():
    """Start `alexprep serve`; what is left of it is killed."""
    processes = []

    def start(*arguments):
        command = [Path(sys.executable).parent / "alexprep", "serve", "--bind", "127.0.0.1:0", "--http", "", "--json", *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process, json.loads(process.stdout.readline())["location"]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def service(folder):
    """A server in this process: served(address, secrets) returns it."""
    running = []

    def serve(**options):
        made = Service(RequestHandler(str(folder)), Address("127.0.0.1", 0), **options)
        threading.Thread(target=made.serve, daemon=True).start()
        running.append(made)
        return made

    yield serve
    for made in running:
        made.drain(5)
