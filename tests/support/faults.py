"""A job that fails at a chosen moment: run as a program, it forks one child a fault, so that a hundred cost seconds.

A moment is the n-th byte that is written, or the n-th call that changes a folder (fsync, rename, delete). The fault is SIGKILL, or
"no space left on device".
"""

import errno
import os
import pathlib
import random
import signal
import sys
import traceback
from concurrent.futures import Future
from pathlib import Path

from alexprep.pipeline.config import ShardConfig
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.preparation.append import AppendJob
from alexprep.pipeline.preparation.job import ShardJob
from alexprep.pipeline.preparation.repair import RepairJob
from alexprep.pipeline.preparation.shard_task import make_shard
from alexprep.pipeline.preparation.verify import Verification
from alexprep.pipeline.shards.manifest import read_manifest
from alexprep.pipeline.sources import find_source
from alexprep.pipeline.storage import files

CONFIG = ShardConfig(size=8, records_per_shard=8)


class Inline:
    """An engine that makes each shard at once, in this process."""

    width = 1

    def __init__(self, workers=0):
        pass

    def submit(self, task):
        future = Future()
        future.set_result(make_shard(task))
        return future

    def progress(self):
        return 0, 0

    def stop(self):
        pass

    def close(self):
        pass


class Fault:
    """Counts bytes or calls down to zero, then strikes."""

    def __init__(self, kind, unit, after):
        self.kind, self.unit, self.left = kind, unit, after

    def strike(self):
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, "No space left on device")

    def install(self):
        fault, fsync, replace, unlink, opened = self, os.fsync, pathlib.Path.replace, pathlib.Path.unlink, files._opened

        class File:
            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *error):
                self.file.close()

            def write(self, data):
                view = memoryview(data).cast("B")
                if fault.unit == "bytes":
                    fault.left -= len(view)
                    if fault.left < 0:
                        self.file.write(view[: fault.left])
                        self.file.flush()
                        fault.strike()
                return self.file.write(view)

            def __getattr__(self, name):
                return getattr(self.file, name)

        def counted(call):
            def wrapped(*arguments, **options):
                if fault.unit == "calls":
                    fault.left -= 1
                    if fault.left == -1:
                        fault.strike()
                return call(*arguments, **options)

            return wrapped

        files._opened = lambda path: File(opened(path))
        os.fsync, pathlib.Path.replace, pathlib.Path.unlink = counted(fsync), counted(replace), counted(unlink)


def act(action, src, out):
    """Run one of the jobs to its end."""
    if action == "append":
        job = AppendJob(find_source(src), out)
        job._job.engine = Inline
        list(job.run())
        return
    if action == "shard":
        list(ShardJob(find_source(src), out, CONFIG, max_bad=0.1, engine=Inline).run())
        return
    check = Verification(read_manifest(out), workers=1)
    list(check.run())
    job = RepairJob(find_source(src), check.manifest, check.damaged, max_bad=0.1)
    job._job.engine = Inline
    list(job.run())


def fail_once(action, src, out, fault):
    """Run `action` in a child with `fault`; return whether it struck."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            fault.install()
            act(action, src, out)
            code = 0
        except DataError as error:
            assert "No space left" in str(error), error
            code = 3
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
            code = 3
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) in (0, 3), status
    return os.WEXITSTATUS(status) == 3


def snapshot(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.startswith(".")}


def restore(contents, directory):
    for path in directory.iterdir():
        path.unlink()
    for name, data in contents.items():
        (directory / name).write_bytes(data)


def main(action, kind, unit, src, before, after, points, seed):
    """Strike `points` times from the state `before`; each time what is visible must be a file of `before` or `after`, and one run must finish."""
    out = Path(before).with_name("out")
    out.mkdir()
    start, end = snapshot(Path(before)), snapshot(Path(after))
    restore(start, out)
    act(action, Path(src), out)  # here once, so that no child has to import what is imported late
    new = [name for name in end if start.get(name) != end[name]]
    most = sum(len(end[name]) for name in new) if unit == "bytes" else 5 * len(new)
    rng, struck = random.Random(seed), 0
    for point in range(points):
        restore(start, out)
        for _ in range(1 + point % 3):  # a second and a third fault hit the job that continues
            struck += fail_once(action, Path(src), out, Fault(kind, unit, rng.randrange(most)))
            for name, data in snapshot(out).items():
                assert data in (start.get(name), end.get(name)), f"{name} is neither old nor new after fault {point}"
        assert fail_once(action, Path(src), out, Fault("none", "none", 0)) is False
        found = snapshot(out)
        assert found == end, f"fault {point}: {sorted(set(found) ^ set(end))} {[name for name in end if found.get(name) != end[name]]}"
        assert not list(out.glob(".*.partial")), f"fault {point} left something behind"
    sys.stdout.write(str(struck))


if __name__ == "__main__":
    main(*sys.argv[1:7], int(sys.argv[7]), int(sys.argv[8]))
