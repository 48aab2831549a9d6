"""Lay one network out over the ranks: `data`, `towers` or `hybrid` (see networks/partition.py).

The whole network is gathered again for checkpoints and evaluation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from ..distributed import Ranks
from ..errors import TrainingError
from ..networks.alexnet import AlexNet
from ..networks.layers import ResponseNorm
from ..networks.partition import WHOLE, Partition, sent

Name = Literal["data", "towers", "hybrid"]
Choice = Literal["auto", "data", "towers", "hybrid"]
NAMES: tuple[Name, ...] = get_args(Name)
TOWERS = 2  # towers of the 2012 network
State = dict[str, Tensor]


@dataclass(frozen=True)
class ParallelLayout:
    """How a network is laid out over the ranks; a single rank has all of it."""

    ranks: Ranks
    name: Name = "data"
    convs: Partition = WHOLE
    fcs: Partition = WHOLE
    feed: tuple[int, int] = (0, 1)  # index of this rank's part of each batch, number of parts
    averaging: Any = None  # process group that averages gradients; None: nothing to average
    half_gradients: bool = False  # gradients are averaged in bfloat16
    shapes: dict[str, torch.Size] = field(default_factory=dict)  # of the whole network's parameters

    def part(self, whole: State) -> State:
        """Return this rank's part of the network's parameters, or of one value per parameter."""
        return {name: self._split(name).rows(value) for name, value in whole.items()}

    def whole(self, part: State) -> State:
        """Return the whole network's parameters on every rank; all ranks must call it."""
        return {name: self._gathered(name, value) for name, value in part.items()}

    def network(self, model: nn.Module) -> nn.Module:
        """Return `model`, with gradients averaged over the ranks that have the same part."""
        if self.averaging is None:
            return model
        if self.name == "hybrid":
            own = [name for name, _ in model.named_parameters() if self._split(name).of > 1]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, own)  # type: ignore[no-untyped-call]  # noqa: SLF001  (no public name)
        devices = [self.ranks.device] if self.ranks.device.type == "cuda" else None
        wrapped = DistributedDataParallel(model, device_ids=devices, process_group=self.averaging, gradient_as_bucket_view=True)
        wrapped.register_comm_hook(
            self.averaging, _counted(default_hooks.bf16_compress_hook if self.half_gradients else default_hooks.allreduce_hook)
        )
        return wrapped

    def align(self, model: nn.Module) -> None:
        """Copy rank 0's buffers to all ranks. Each rank computes buffers, such as BatchNorm's running means, from its own images."""
        for buffer in model.buffers() if self.averaging is not None else ():
            distributed.broadcast(buffer, 0)

    def of_batch(self, values: Tensor) -> Tensor:
        """Return the labels or keys of all images in the loss; `values` are this rank's."""
        if not self.fcs.batches:
            return values
        parts = [torch.empty_like(values) for _ in range(self.fcs.of)]
        distributed.all_gather(parts, values.contiguous(), group=self.fcs.group)
        return torch.cat(parts)

    def _split(self, name: str) -> Partition:
        return self.fcs if name.startswith("fc") else self.convs

    def _gathered(self, name: str, value: Tensor) -> Tensor:
        split = self._split(name)
        if split.of == 1:
            return value
        parts = [torch.empty_like(value) for _ in range(split.of)]
        distributed.all_gather(parts, value.contiguous(), group=split.group)
        return torch.cat(parts)[: self.shapes[name][0]]


def _counted(hook: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return `hook`, extended to count the bytes that this rank sends in an all-reduce."""

    def counting(group: Any, bucket: GradBucket) -> torch.futures.Future[Tensor]:  # noqa: ANN401  (a process group, or none)
        ranks = distributed.get_world_size(group)
        size = bucket.buffer().numel() * (2 if hook is default_hooks.bf16_compress_hook else 4)
        sent["reduce"] += 2 * size * (ranks - 1) // ranks
        return hook(group, bucket)

    return counting


def lay_out(name: Name, ranks: Ranks, whole: AlexNet, *, half_gradients: bool = False) -> ParallelLayout:
    """Return the layout of `whole` on these ranks; all ranks must call it.

    Raise TrainingError if the network or the number of ranks does not allow it.
    """
    why_not = unfit(name, whole, ranks.world_size)
    if why_not:
        raise TrainingError(why_not)
    shapes = {key: value.shape for key, value in whole.state_dict().items()}
    world, rank = ranks.world_size, ranks.rank
    if world == 1:
        return ParallelLayout(ranks, shapes=shapes)
    if name == "data":
        return ParallelLayout(ranks, feed=(rank, world), averaging=distributed.group.WORLD, half_gradients=half_gradients, shapes=shapes)
    if name == "hybrid":
        fcs = Partition(rank, world, distributed.group.WORLD, batches=True)
        return ParallelLayout(ranks, name, WHOLE, fcs, (rank, world), distributed.group.WORLD, half_gradients, shapes)
    copies = world // TOWERS
    networks = [distributed.new_group([TOWERS * copy + tower for tower in range(TOWERS)]) for copy in range(copies)]
    twins = [distributed.new_group(list(range(tower, world, TOWERS))) for tower in range(TOWERS)] if copies > 1 else [None] * TOWERS
    copy, tower = divmod(rank, TOWERS)
    split = Partition(tower, TOWERS, networks[copy])
    return ParallelLayout(ranks, name, split, split, (copy, copies), twins[tower], half_gradients, shapes)


def unfit(name: Name, whole: AlexNet, world_size: int) -> str:
    """Return why this layout is not possible; an empty string if it is."""
    if world_size == 1 or name == "data":
        return ""
    if name == "towers":
        if whole.preset.towers != TOWERS:
            return "this network has one tower: --parallel towers needs two; use data or hybrid"
        if world_size % TOWERS:
            return f"two towers need an even number of ranks, not {world_size}"
        halo = whole.preset.norm_towers == 1 and isinstance(whole.norm1, ResponseNorm)
        if halo and min(whole.conv1.out_channels, whole.conv2.out_channels) < TOWERS * ResponseNorm.reach:
            return f"width {whole.width} leaves a tower with fewer maps than the other tower's normalisation reads: use a larger --width"
        return ""
    if not whole.switches.exchange:
        return "each tower has its own fully connected layers (exchange=false), which --parallel hybrid cannot split; use towers or data"
    odd = [str(units) for units in whole.units if units % world_size]
    return f"{odd[0]} units of a fully connected layer cannot be shared by {world_size} ranks" if odd else ""


def bytes_a_step(name: Name, whole: AlexNet, world_size: int, batch: int, *, activation: int, gradient: int) -> int:
    """Return how many bytes each rank sends per step, in the paper's layout or its successors.

    `activation` and `gradient` are bytes per number. An all-gather or reduce-scatter sends (ranks - 1) times what a
    rank has; an all-reduce sends 2 (ranks - 1) / ranks of the whole. docs/multigpu.md has a table.
    """
    numbers = {kind: sum(p.numel() for name, p in whole.named_parameters() if name.startswith(kind)) for kind in ("conv", "fc")}
    maps, hidden = whole.exchanged

    def reduced(count: int, ranks: int) -> int:
        return 2 * gradient * count * (ranks - 1) // ranks

    if name == "data":
        return reduced(sum(numbers.values()), world_size)
    others, logits = (world_size - 1, -(-whole.classes // world_size)) if name == "hybrid" else (TOWERS - 1, -(-whole.classes // TOWERS))
    if name == "hybrid":
        joined = 2 * batch // world_size * (whole.inputs + hidden) + batch * logits
        return activation * joined * others + reduced(numbers["conv"], world_size)
    copies = world_size // TOWERS
    joined = batch // copies * (2 * (maps + hidden) // TOWERS + logits)
    return activation * joined * others + reduced(sum(numbers.values()) // TOWERS, copies)


def choose(choice: Choice, ranks: int, whole: AlexNet, batch: int, *, activation: int, gradient: int) -> tuple[Name, str]:
    """Return the layout, and for "auto" the reason. "auto" takes the layout in which each rank sends the fewest bytes per step."""
    if choice != "auto":
        return choice, ""
    if ranks == 1:
        return "data", ""
    possible: dict[Name, int] = {
        name: bytes_a_step(name, whole, ranks, batch, activation=activation, gradient=gradient) for name in NAMES if not unfit(name, whole, ranks)
    }
    best = min(possible, key=lambda name: possible[name])
    figures = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in possible.items())
    return best, f"--parallel {best} sends the least; MB per step from each of {ranks} ranks at batch {batch}: {figures}"
