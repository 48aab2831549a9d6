"""What the doctor says of machines that this one is not."""

import json

import pytest
from alexprep.pipeline.inspection.doctor import GIB, Facts, judge

from ...support.commands import command

GPU = {"driver": 12040, "driver_version": "550.54.14", "nodes": True, "torch_sees": 2}
CUDA12 = {"torch": "2.9.0", "nvidia-dali-cuda120": "2.4.0"}
BOTH = CUDA12 | {"nvidia-dali-cuda130": "2.4.0"}


@pytest.mark.parametrize(
    ("facts", "bad"),
    [
        (Facts(), ""),
        (Facts(packages={"torch": "2.13.0"}), ""),
        (Facts(packages=CUDA12), ""),
        (Facts(packages=CUDA12, torch_cuda="12.6", **GPU), ""),
        (Facts(packages={"torch": "2.9.0", "nvidia-dali-cuda130": "2.4.0"}, torch_cuda="13.0", **(GPU | {"driver": 13000})), ""),
        (Facts(packages=CUDA12, torch_error="OSError: libcudart.so.12: cannot open"), "torch 2.9.0 cannot be imported: OSError: libcudart.so.12"),
        (Facts(packages=CUDA12, dali_error="ImportError: libnvjpeg"), "DALI nvidia-dali-cuda120 2.4.0 cannot be imported: ImportError: libnvjpeg"),
        (Facts(packages=BOTH), "DALI nvidia-dali-cuda120 and nvidia-dali-cuda130 overwrite each other's files: pip uninstall --yes"),
        (Facts(packages=CUDA12, torch_cuda="12.6", nodes=True), "driver there is a GPU device, but no driver library; install"),
        (
            Facts(packages=CUDA12, torch_cuda="12.6", driver=12040),
            "driver the driver's library is there, but no GPU device; in a container: docker run --gpus all",
        ),
        (
            Facts(packages=CUDA12, torch_cuda="12.6", **(GPU | {"driver": 11080})),
            "driver for CUDA 11 at most; DALI and torch need 12: install driver 525",
        ),
        (
            Facts(packages={"torch": "2.9.0"}, torch_cuda="12.6", **GPU),
            "DALI not installed, and the GPU's batches are made by it: pip install 'alexprep[cuda12]'",
        ),
        (Facts(packages={"torch": "2.9.0", "nvidia-dali-cuda130": "2.4.0"}, torch_cuda="12.6", **GPU), "DALI nvidia-dali-cuda130 needs driver 580"),
        (
            Facts(packages=CUDA12, **GPU),
            "torch built for CPUs, and there is a GPU: pip install --index-url https://download.pytorch.org/whl/cu126 torch",
        ),
        (Facts(packages=CUDA12, torch_cuda="13.0", **GPU), "torch built for CUDA 13.0, which needs driver 580"),
        (
            Facts(packages=CUDA12, torch_cuda="13.0", **(GPU | {"driver": 13000})),
            "CUDA torch is for CUDA 13 and nvidia-dali-cuda120 for 12: two runtimes in one process; pip uninstall",
        ),
        (Facts(packages=CUDA12, torch_cuda="12.6", **(GPU | {"torch_sees": 0})), "GPU torch sees none; nvidia-smi says more"),
        (Facts(system="Darwin"), "system Darwin is not tested"),
    ],
    ids=str,
)
def test_what_is_missing_is_named_with_its_remedy(facts, bad):
    found = [f"{finding.what} {finding.text}" for finding in judge(facts) if finding.state == "bad"]

    assert len(found) == bool(bad) or (len(found) == 2 and "CUDA 12" in found[1])
    assert not bad or any(bad in text for text in found)


@pytest.mark.parametrize(
    ("facts", "note"),
    [
        (Facts(compiled=""), "kernels not compiled: results are the same, but take twice as long or more; install gcc"),
        (Facts(compiled="any processor"), "kernels compiled without AVX2, which this processor has"),
        (Facts(), "torch not installed: shards and statistics can be made"),
        (Facts(memlock=64 << 10, **GPU, packages=CUDA12, torch_cuda="12.6"), "locked memory at most 64 KiB may be locked"),
        (Facts(open_files=1024), "open files 1,024; every shard"),
        (Facts(shared_memory=GIB // 16), "shared memory 0.06 GiB in /dev/shm"),
        (Facts(shared_memory=None), "shared memory there is no /dev/shm"),
    ],
    ids=str,
)
def test_what_could_be_better_is_a_note(facts, note):
    assert any(finding.state == "note" and note in f"{finding.what} {finding.text}" for finding in judge(facts))


@pytest.mark.process
def test_the_doctor_looks_at_this_machine():
    done = command("alexprep", "doctor", "--json")
    said = json.loads(done.stdout)

    assert done.returncode == (0 if said["ready"] else 1)
    assert {finding["what"] for finding in said["findings"]} >= {"machine", "kernels", "torch", "GPU"} or not said["ready"]
    plain = command("alexprep", "doctor")
    assert plain.stdout.count("\n") == len(said["findings"])
    assert "Traceback" not in plain.stderr
