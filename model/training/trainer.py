"""The training loop: an iterator over events. It prints nothing and writes nothing; what it needs is handed to it."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ..config import TrainerConfig
from ..errors import TrainingError
from ..evaluation.evaluator import Evaluation
from ..events import RunEvent, StepLog, Tick, Validation
from ..networks.alexnet import AlexNet
from ..networks.layers import dropout_keys
from .optimizer import PaperSGD
from .parallel_layout import ParallelLayout
from .schedule import Schedule

BatchSource = Callable[[int, bool], Iterable[tuple[Tensor, Tensor, Tensor]]]

_DIVERGED = "training has diverged. Train with a lower --lr: anew, or with --resume from the last checkpoint if there is one"


class NotFinite(TrainingError):
    """The loss is no number; no weight was changed by the step. `records` are those of this rank's part of its batch."""

    def __init__(self, message: str, step: int, records: Tensor) -> None:
        """Take what happened before which step's update."""
        super().__init__(message)
        self.step, self.records = step, records


class Trainer:
    """Trains `model` from the step it is at; `state_dict` is all that a later process needs to continue.

    batches(step, colour)   yields the rest of the epoch from that step: (images, labels, records), this rank's part
    evaluate()              returns the validation errors, or None if there is nothing to validate on
    save(name)              keeps `state_dict()` as "last" or "best"; called on every rank
    """

    def __init__(
        self,
        model: AlexNet,
        optimizer: PaperSGD,
        schedule: Schedule,
        config: TrainerConfig,
        layout: ParallelLayout,
        *,
        epoch_steps: int,
        seed: int = 0,
        reseed: bool = False,
    ) -> None:
        """Take the parts; the model is this rank's part, on its device already.

        epoch_steps   steps of an epoch
        seed          decides which units are dropped
        reseed        seeds torch's own generator at each step, for a network that draws from it, such as with nn.Dropout
        """
        self.model, self.optimizer, self.schedule, self.config, self.layout = model, optimizer, schedule, config, layout
        self.epoch_steps, self._seed, self._reseed = epoch_steps, seed, reseed
        self._dtype: torch.dtype = getattr(torch, config.precision)
        self.step = 0
        self.validated = 0  # epochs
        self.best_error = float("inf")
        self.stopped = False  # because `stop` said so
        self.train_error: float | None = None  # mean of the last epoch's batches, if all of them were seen
        self._seen = (0.0, 0)  # sum of the training errors of this epoch's batches, and how many
        self._averaging: DistributedDataParallel | None = None
        self._saved = time.monotonic()
        self.averages = {name: value.detach().clone() for name, value in model.named_parameters()} if config.ema else {}

    def run(
        self,
        batches: BatchSource,
        evaluate: Callable[[], Evaluation | None],
        save: Callable[[str], None],
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[RunEvent]:
        """Train to the end of the schedule (or for `config.steps`); yield a Tick or a StepLog a step, and a Validation an epoch.

        When `stop()` is true on any rank after a step, all ranks save and return, with `stopped` set. Raises NotFinite if
        the loss is not finite.
        """
        network = self.layout.network(self.model)
        self._averaging = network if isinstance(network, DistributedDataParallel) else None
        if self.config.compile:
            network = torch.compile(network)  # type: ignore[assignment]
        self.model.train()
        yield from self._validate(evaluate, save)  # if a kill came between the epoch's last step and its validation
        while not self._ended():
            epoch = self.step // self.epoch_steps
            phase = self.schedule.phase(epoch)
            self.optimizer.set_rates(phase.lr, phase.conv1, self.config.lr)
            clock = _Clock()
            for images, labels, records in clock.watch(batches(self.step, phase.colour)):
                taken = self._update(network, images, labels, records, stop)
                self.stopped = taken.stopping
                self.step += 1
                self._seen = (self._seen[0] + taken.error, self._seen[1] + 1)
                clock.images += len(labels) * self.layout.feed[1]
                yield self._event(taken, phase.lr, epoch, clock)
                if self.stopped or self._out_of_steps():
                    break
                if taken.due and self.step % self.epoch_steps:
                    self._save(save, "last")
            self._save(save, "last")
            if self.stopped:
                return
            yield from self._validate(evaluate, save)

    def _ended(self) -> bool:
        reached = self.config.until > 0 and self.train_error is not None and self.train_error <= self.config.until
        return reached or self._out_of_steps() or self.schedule.finished(self.step // self.epoch_steps)

    def _out_of_steps(self) -> bool:
        return 0 < self.config.steps <= self.step

    def _update(self, network: torch.nn.Module, images: Tensor, labels: Tensor, records: Tensor, stop: Callable[[], bool]) -> "_Taken":
        """Take one step; return what it came to, the same on all ranks.

        Raises NotFinite, before the weights have changed, if the loss is not finite.
        """
        if self._reseed:
            rank = torch.tensor([self.layout.ranks.rank])
            torch.manual_seed(int(dropout_keys(self._seed, self.step, rank)) & ((1 << 63) - 1))
        self.optimizer.zero_grad()
        sums = torch.zeros(2, device=images.device)  # loss, error
        chunks = [values.chunk(self.config.accumulate) for values in (images, labels, records)]
        last = len(chunks[0]) - 1
        for number, (part, its_labels, its_records) in enumerate(zip(*chunks, strict=True)):
            share = len(part) / len(images)
            later = self._averaging.no_sync() if self._averaging is not None and number < last else nullcontext()
            with later:  # gradients are averaged once
                sums += share * self._backward(network, part, its_labels, its_records, share)
        taken = self._agreed(sums, stop)
        if not abs(taken.loss) < float("inf"):
            raise NotFinite(f"the loss is {taken.loss} at step {self.step + 1}: {_DIVERGED}", self.step, records)
        self.optimizer.step()
        if self.averages:
            torch._foreach_lerp_(list(self.averages.values()), [value.detach() for value in self.model.parameters()], 1 - self.config.ema)
        return taken

    def evaluated(self) -> dict[str, Tensor]:
        """Return the whole network's state that evaluation is to see: with the mean weights, if there are; all ranks must call it."""
        return self.layout.whole(self.model.state_dict() | self.averages)

    def _backward(self, network: torch.nn.Module, images: Tensor, labels: Tensor, records: Tensor, share: float) -> Tensor:
        """Add the gradients of `share` times the mean loss; return the mean loss and the share of wrong answers."""
        layout = self.layout
        keys, labels = layout.of_batch(dropout_keys(self._seed, self.step, records)), layout.of_batch(labels)
        with torch.autocast(images.device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits = network(images, keys)
        loss = F.cross_entropy(logits.float(), labels)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        return torch.stack([loss.detach(), (logits.argmax(1) != labels).float().mean()])

    def _agreed(self, sums: Tensor, stop: Callable[[], bool]) -> "_Taken":
        """Return what all ranks say together."""
        late = 0 < 60 * self.config.checkpoint_minutes <= time.monotonic() - self._saved
        said = torch.cat([sums.double(), torch.tensor([stop(), late], dtype=torch.float64, device=sums.device)])
        loss, error, stopping, due = self.layout.ranks.sum(said).tolist()
        ranks = self.layout.ranks.world_size
        return _Taken(loss / ranks, error / ranks, stopping > 0, due > 0 or (self.step + 1) % self.config.checkpoint_steps == 0)

    def _event(self, taken: "_Taken", lr: float, epoch: int, clock: "_Clock") -> RunEvent:
        if self.step % self.config.log_steps:
            return Tick(step=self.step)
        images_per_s, wait_share = clock.read()
        return StepLog(step=self.step, epoch=epoch + 1, loss=taken.loss, error=taken.error, lr=lr, images_per_s=images_per_s, wait_share=wait_share)

    def _validate(self, evaluate: Callable[[], Evaluation | None], save: Callable[[str], None]) -> Iterator[RunEvent]:
        """Validate the epoch that has just ended, unless that was done."""
        epoch, rest = divmod(self.step, self.epoch_steps)
        if rest or epoch == self.validated:
            return
        result = evaluate()
        self.validated = epoch
        errors, seen = self._seen
        self.train_error, self._seen = errors / seen if seen == self.epoch_steps else None, (0.0, 0)
        if result is not None:
            self.schedule.observe(result.top1_error)
            if result.top1_error < self.best_error:
                self.best_error = result.top1_error
                save("best")
            yield Validation(step=self.step, epoch=epoch, views=1, **asdict(result), train_error=self.train_error)
        save("last")

    def _save(self, save: Callable[[str], None], name: str) -> None:
        """Save, but never over a good checkpoint with a diverged one."""
        good = all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())
        if float(self.layout.ranks.sum(torch.tensor(float(not good), device=self.layout.ranks.device))):
            raise TrainingError(f"a weight is not finite after step {self.step}: {_DIVERGED}")
        self._saved = time.monotonic()
        save(name)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values only, so that it loads with `weights_only=True`; of the whole network, and all ranks must call it."""
        return {
            "step": self.step,
            "validated": self.validated,
            "best_error": self.best_error,
            "train_error": self.train_error,
            "seen": list(self._seen),
            "model": self.layout.whole(self.model.state_dict()),
            "velocities": self.layout.whole(self.optimizer.velocities()),
            "schedule": self.schedule.state_dict(),
            **({"averages": self.layout.whole(self.averages)} if self.averages else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, in any layout."""
        if min(int(state["step"]), int(state["validated"])) < 0:
            raise ValueError("a negative step")
        self.step, self.validated, self.best_error = int(state["step"]), int(state["validated"]), float(state["best_error"])
        seen = state.get("seen", (0.0, 0))  # not in the first releases' checkpoints
        error = state.get("train_error")
        self.train_error, self._seen = None if error is None else float(error), (float(seen[0]), int(seen[1]))
        self.model.load_state_dict(self.layout.part(state["model"]))
        self.optimizer.load_velocities(self.layout.part(state["velocities"]))
        self.schedule.load_state_dict(state["schedule"])
        for name, value in self.layout.part(state["averages"] if self.averages else {}).items():
            self.averages[name].copy_(value)


class _Taken(NamedTuple):
    """A step that was taken, as all ranks see it."""

    loss: float  # mean of the batch
    error: float  # share of wrong answers
    stopping: bool  # some rank was asked to stop
    due: bool  # a checkpoint is due


class _Clock:
    """Time since the last reading, and how much of it went into waiting for batches."""

    def __init__(self) -> None:
        self.images = 0
        self._start = time.perf_counter()
        self._waited = 0.0

    def watch(self, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def read(self) -> tuple[float, float]:
        """Return images a second and the share of the time that went into waiting, since the last reading."""
        now = time.perf_counter()
        elapsed = now - self._start
        values = round(self.images / elapsed, 1), round(self._waited / elapsed, 4)
        self.images, self._start, self._waited = 0, now, 0.0
        return values
