"""Check whether this machine is ready: CPU, packages, GPU and limits.

`look` collects the facts of this machine, `judge` turns facts into findings. They are separate, so
that the facts of any machine can be judged anywhere.
"""

import ctypes
import os
import platform
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from ..imaging import kernels

DALI = ("nvidia-dali-cuda120", "nvidia-dali-cuda130")
DALI_MAJOR = {"nvidia-dali-cuda120": 12, "nvidia-dali-cuda130": 13}
# Oldest driver for each CUDA on Linux, from the release notes of CUDA 12.0 and 13.0.
LEAST_DRIVER = {12: "525.60.13", 13: "580.65.06"}
GIB = 1 << 30
UNLIMITED = resource.RLIM_INFINITY


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts of a machine that matter here."""

    system: str = "Linux"
    python: tuple[int, int] = (3, 11)
    compiled: str = "AVX2"  # target of the kernels: "AVX2", "any processor"; "" if not compiled
    avx2: bool = True  # whether the processor has AVX2
    cpus: int = 8
    memory: int = 64 * GIB
    packages: dict[str, str] = field(default_factory=dict)  # name -> version of torch and DALI
    torch_cuda: str | None = None  # the CUDA version that torch was built for
    torch_error: str = ""  # why torch cannot be imported
    torch_sees: int = 0  # number of GPUs that torch finds
    dali_error: str = ""  # why DALI cannot be imported
    # CUDA version that the driver can run, 12040 for 12.4; None: there is no driver library.
    driver: int | None = None
    driver_version: str = ""  # for example 535.104
    nodes: bool = False  # whether a GPU device (/dev/nvidia0, /dev/nvidiactl or /dev/dxg) exists
    memlock: int = UNLIMITED  # limit of locked memory, bytes
    open_files: int = 1 << 20  # limit of open files
    shared_memory: int | None = 8 * GIB  # size of /dev/shm, bytes; None: there is none


class Finding(NamedTuple):
    """One line of the report."""

    state: Literal["ok", "note", "bad"]
    what: str
    text: str  # what was found and what to do


def judge(facts: Facts) -> list[Finding]:
    """Return the findings, good and bad."""
    return [*_machine(facts), *_packages(facts), *_gpu(facts), *_limits(facts)]


def _machine(facts: Facts) -> list[Finding]:
    found = [
        Finding(
            "ok", "machine", f"{facts.system}, Python {'.'.join(map(str, facts.python))}, {facts.cpus} CPUs, {facts.memory / GIB:.0f} GiB of memory"
        )
    ]
    if facts.system != "Linux":
        found.append(Finding("bad", "system", f"{facts.system} is not tested; use Linux, or the Docker image"))
    if not facts.compiled:
        remedy = "install gcc (apt-get install gcc libc6-dev), then pip install --force-reinstall --no-cache-dir alexprep"
        found.append(Finding("note", "kernels", f"not compiled: results are the same, but take twice as long or more; {remedy}"))
    elif facts.avx2 and facts.compiled != "AVX2":
        found.append(
            Finding("note", "kernels", "compiled without AVX2, which this processor has; install a newer gcc, then pip install --force-reinstall")
        )
    else:
        found.append(Finding("ok", "kernels", f"compiled for {facts.compiled}"))
    return found


def _packages(facts: Facts) -> list[Finding]:
    found = []
    if "torch" not in facts.packages:
        remedy = "pip install 'alexprep[train]', or 'alexprep[cuda12]' on a machine with a GPU"
        return [Finding("note", "torch", f"not installed: shards and statistics can be made, but nothing can be loaded or trained; {remedy}")]
    built = f"for CUDA {facts.torch_cuda}" if facts.torch_cuda else "for CPUs"
    if facts.torch_error:
        found.append(Finding("bad", "torch", f"{facts.packages['torch']} cannot be imported: {facts.torch_error}"))
    else:
        found.append(Finding("ok", "torch", f"{facts.packages['torch']}, built {built}"))
    dali = [name for name in DALI if name in facts.packages]
    if len(dali) > 1:
        found.append(
            Finding("bad", "DALI", f"{' and '.join(dali)} overwrite each other's files: pip uninstall --yes {' '.join(dali)}, then install one")
        )
    elif dali and facts.dali_error:
        found.append(Finding("bad", "DALI", f"{dali[0]} {facts.packages[dali[0]]} cannot be imported: {facts.dali_error}"))
    elif dali:
        found.append(Finding("ok", "DALI", f"{dali[0]} {facts.packages[dali[0]]}"))
    return found


def _gpu(facts: Facts) -> list[Finding]:
    if facts.driver is None and not facts.nodes:
        return [Finding("ok", "GPU", "none, and none is needed: batches are made on the CPU")]
    if facts.driver is None:
        remedy = "install the driver's libcuda.so.1 (in a container: docker run --gpus all, with the NVIDIA Container Toolkit on the host)"
        return [Finding("bad", "driver", f"there is a GPU device, but no driver library; {remedy}")]
    if not facts.nodes:
        remedy = "in a container: docker run --gpus all; else nvidia-smi says more"
        return [Finding("bad", "driver", f"the driver's library is there, but no GPU device; {remedy}")]
    major = facts.driver // 1000
    found = [Finding("ok", "driver", f"{facts.driver_version or 'found'}, for CUDA up to {major}.{facts.driver % 1000 // 10}")]
    wanted = f"cuda{min(major, 13)}" if major >= 12 else ""
    if not wanted:
        return [Finding("bad", "driver", f"for CUDA {major} at most; DALI and torch need 12: install driver {LEAST_DRIVER[12]} or newer")]
    dali = next((name for name in DALI if name in facts.packages), None)
    if dali is None:
        found.append(Finding("bad", "DALI", f"not installed, and the GPU's batches are made by it: pip install 'alexprep[{wanted}]'"))
    elif DALI_MAJOR[dali] > major:
        found.append(
            Finding(
                "bad",
                "DALI",
                f"{dali} needs driver {LEAST_DRIVER[DALI_MAJOR[dali]]} or newer; or pip uninstall {dali} and install 'alexprep[{wanted}]'",
            )
        )
    if "torch" in facts.packages and not facts.torch_error:
        found += _torch_on_gpu(facts, major, dali)
    return found


def _torch_on_gpu(facts: Facts, major: int, dali: str | None) -> list[Finding]:
    index = "pip install --index-url https://download.pytorch.org/whl"
    if facts.torch_cuda is None:
        return [Finding("bad", "torch", f"built for CPUs, and there is a GPU: {index}/cu{126 if major == 12 else 130} torch")]
    built = int(facts.torch_cuda.partition(".")[0])
    if built > major:
        return [
            Finding(
                "bad",
                "torch",
                f"built for CUDA {facts.torch_cuda}, which needs driver {LEAST_DRIVER.get(built, 'of that CUDA')} or newer; or {index}/cu126 torch",
            )
        ]
    found = []
    if dali is not None and DALI_MAJOR[dali] != built:
        other = next((name for name in DALI if DALI_MAJOR[name] == built), None)
        remedy = f"pip uninstall --yes {dali} && pip install {other}" if other else f"install a torch for CUDA {DALI_MAJOR[dali]}"
        found.append(Finding("bad", "CUDA", f"torch is for CUDA {built} and {dali} for {DALI_MAJOR[dali]}: two runtimes in one process; {remedy}"))
    if facts.torch_sees == 0:
        found.append(Finding("bad", "GPU", "torch sees none; nvidia-smi says more, and CUDA_VISIBLE_DEVICES may hide it"))
    else:
        found.append(Finding("ok", "GPU", f"torch sees {facts.torch_sees}"))
    return found


def _limits(facts: Facts) -> list[Finding]:
    found = []
    if facts.nodes and facts.memlock != UNLIMITED and facts.memlock < GIB:
        text = f"at most {facts.memlock >> 10:,} KiB may be locked, but GPU copies lock memory: ulimit -l unlimited, docker run --ulimit memlock=-1"
        found.append(Finding("note", "locked memory", text))
    if facts.open_files < 4096:
        text = f"{facts.open_files:,}; every shard of an object store in use needs one: ulimit -n 65536"
        found.append(Finding("note", "open files", text))
    if facts.shared_memory is None:
        found.append(Finding("note", "shared memory", "there is no /dev/shm, which ranks use to communicate; mount a tmpfs there"))
    elif facts.shared_memory < GIB:
        text = f"{facts.shared_memory / GIB:.2f} GiB in /dev/shm, which ranks use to communicate: docker run --shm-size 8g, or --ipc host"
        found.append(Finding("note", "shared memory", text))
    return found


def look() -> Facts:
    """Return the facts of this machine, without installing anything or using the network."""
    packages = {}
    for name in ("torch", *DALI):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    torch = _asked("import torch; print(torch.version.cuda or '', torch.cuda.device_count())") if "torch" in packages else ""
    dali = _asked("import nvidia.dali.fn; print('fine')") if any(name in packages for name in DALI) else "fine"
    cuda, _, sees = torch.rpartition(" ") if not torch.startswith("!") else ("", "", "0")
    driver, driver_version = _driver()
    return Facts(
        system=platform.system(),
        python=sys.version_info[:2],
        compiled="" if not kernels.COMPILED else "AVX2" if kernels.USES_AVX2 else "any processor",
        avx2=kernels.COMPILED and kernels.HAS_AVX2,
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        packages=packages,
        torch_cuda=cuda or None,
        torch_error=torch[1:] if torch.startswith("!") else "",
        torch_sees=int(sees or 0),
        dali_error=dali[1:] if dali.startswith("!") else "",
        driver=driver,
        driver_version=driver_version,
        nodes=any(Path(node).exists() for node in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")),
        memlock=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        shared_memory=shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None,  # noqa: S108  (only its size is read)
    )


def _asked(code: str) -> str:
    """Return what `code` prints in a new Python process, or "!" and the reason of its failure.

    It runs in a process of its own, since a broken library may crash it.
    """
    try:
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return "!it took longer than two minutes"
    if done.returncode == 0:
        return done.stdout.strip()
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return f"!{lines[-1] if lines else f'its process ended with {done.returncode}'}"


def _driver() -> tuple[int | None, str]:
    """Return the CUDA version that the driver can run (12040: 12.4), and the driver's version."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, ""
    number = ctypes.c_int(0)
    known = library.cuDriverGetVersion(ctypes.byref(number)) == 0
    about = Path("/proc/driver/nvidia/version")
    words = about.read_text().split() if about.is_file() else []
    text = next((word for word in words if word[:1].isdigit() and "." in word), "")
    return (number.value if known else 0), text
