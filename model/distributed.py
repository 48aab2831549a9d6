"""Several processes as one: joined through torchrun's environment variables, or alone."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


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

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return `model` with gradients averaged over all ranks."""
        if self.world_size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of `tensor` over all ranks."""
        if self.world_size > 1:
            tensor = tensor.clone()
            distributed.all_reduce(tensor)
        return tensor

    def from_first(self, make: Callable[[], str]) -> str:
        """Return on every rank what `make` returns on rank 0; if it raises, rank 0 raises it and the others exit quietly."""
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


def launched() -> bool:
    """Tell whether torchrun (or our own launcher, which is the same) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the other ranks, if there are any: `device` "cpu" over gloo, "gpu" over NCCL."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device("cuda", local) if device == "gpu" else torch.device("cpu")
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if not launched():
        yield Ranks(device=place)
        return
    if place.type == "cpu":
        peers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // peers))
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), local, place)
    finally:
        distributed.destroy_process_group()
