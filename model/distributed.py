"""Join several processes (ranks) through torchrun's environment variables, or run alone."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from .environment import Launched, launched
from .errors import TrainingError

FOREVER = 10 * 365 * 86400  # seconds
WAITING_SECONDS = 3.0  # wait for the other ranks before a message about it


@dataclass(frozen=True)
class Ranks:
    """This process among its peers."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (immutable)

    @property
    def first(self) -> bool:
        """Tell whether this is the process that prints and writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of `tensor` over all ranks."""
        if self.world_size > 1:
            tensor = tensor.clone()
            distributed.all_reduce(tensor)
        return tensor

    def largest(self, value: int) -> int:
        """Return the largest of all ranks' values."""
        if self.world_size == 1:
            return value
        largest = torch.tensor(value, device=self.device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def gather(self, tensor: Tensor) -> Tensor:
        """Return all ranks' tensors, concatenated, on the CPU of every rank. Their first dimensions may differ."""
        if self.world_size == 1:
            return tensor.cpu()
        sizes = [
            int(size) for size in self.sum(torch.tensor([len(tensor) if r == self.rank else 0 for r in range(self.world_size)], device=self.device))
        ]
        padded = torch.zeros(max(sizes), *tensor.shape[1:], dtype=tensor.dtype, device=self.device)
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:size].cpu() for part, size in zip(parts, sizes, strict=True)])

    def check_same(self, value: str, what: str) -> None:
        """Raise TrainingError on the ranks whose `value` is not rank 0's."""
        first = self.from_first(lambda: value)
        if first != value:
            raise TrainingError(f"rank {self.rank} has another {what} than rank 0: all ranks need the same files ({value} against {first})")

    def from_first(self, make: Callable[[], str]) -> str:
        """Return on every rank what `make` returns on rank 0. If it raises, rank 0 raises that error and the other ranks exit without a message."""
        if self.world_size == 1:
            return make()
        answer: list[str | None] = [None]
        failure = None
        if self.first:
            try:
                answer = [make()]
            except Exception as error:
                failure = error
        distributed.broadcast_object_list(answer, src=0, device=self.device)
        if failure is not None:
            raise failure
        if answer[0] is None:
            raise SystemExit(1)
        return answer[0]


def cpus_of_a_rank() -> int:
    """Return this rank's share of the CPUs: those available, divided by the machine's ranks."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _meet(launch: Launched, place: torch.device, longest: timedelta, tell: Callable[[str], None]) -> None:
    """Create the process group with the other ranks.

    torch waits for them in native code, where Python's signal handlers cannot run. So another
    thread does that, and this thread waits for it in Python, where the handlers run. The other
    thread is a daemon: it does not keep the process alive when a handler ends it.
    """
    failures: list[Exception] = []

    def meet() -> None:
        try:
            if place.type == "cuda":
                torch.cuda.set_device(place)  # every thread has its own current device
            store, rank, world_size = next(rendezvous("env://", timeout=longest))
            # torchrun's store outlives the ranks that it restarts: without a prefix per restart,
            # the new ranks would meet the dead ones
            fresh = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
            backend = "nccl" if place.type == "cuda" else "gloo"
            distributed.init_process_group(backend, store=fresh, rank=rank, world_size=world_size, timeout=longest)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=meet, name="alextrain-meet", daemon=True)
    thread.start()
    thread.join(WAITING_SECONDS)
    if thread.is_alive():
        tell(f"rank {launch.rank} waits for {launch.others}; to train in one process instead, unset RANK and WORLD_SIZE")
    while thread.is_alive():
        thread.join(0.2)
    if failures:
        reason = str(failures[0]).splitlines()[0] if str(failures[0]) else type(failures[0]).__name__
        raise TrainingError(f"rank {launch.rank} could not connect to {launch.others}: {reason}") from failures[0]


@contextmanager
def joined(device: str, timeout: float = 1800, tell: Callable[[str], None] = lambda _: None) -> Iterator[Ranks]:
    """Join the other ranks, if there are any: `device` "cpu" over gloo, "gpu" over NCCL.

    No collective waits longer than `timeout` seconds (0: no limit). `tell` is called with a line
    for the user if the other ranks have not come after `WAITING_SECONDS`.

    On a GPU, cuDNN is restricted to deterministic algorithms and to full float32 (not TF32), so
    that a run can be repeated. Raise TrainingError if the launcher's variables are invalid, this
    rank has no GPU, or the other ranks cannot be reached.
    """
    launch = launched()
    local = 0 if launch is None else launch.local_rank
    place = torch.device("cuda", local) if device == "gpu" else torch.device("cpu")
    if place.type == "cuda":
        if local >= torch.cuda.device_count():
            raise TrainingError(f"rank {local} of this machine has no GPU: the machine has {torch.cuda.device_count()}. Start fewer ranks")
        torch.cuda.set_device(place)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
    if launch is None:
        yield Ranks(device=place)
        return
    if place.type == "cpu":
        torch.set_num_threads(cpus_of_a_rank())
    _meet(launch, place, timedelta(seconds=timeout or FOREVER), tell)
    yield Ranks(distributed.get_rank(), distributed.get_world_size(), local, place)
    # not after an error: while the other ranks are still in a collective, it may wait for ever
    distributed.destroy_process_group()
