"""The training loop: an iterator over events. It prints nothing and writes nothing; what it needs is handed to it."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .alexnet import AlexNet
from .distributed import Ranks
from .errors import TrainingError
from .evaluator import Evaluation
from .layers import dropout_keys
from .optimizer import PaperSGD
from .schedule import Schedule

Batches = Callable[[int, bool], Iterable[tuple[Tensor, Tensor, Tensor]]]
Event = dict[str, Any]

_DIVERGED = "training has diverged. Train with a lower --lr: anew, or with --resume from the last checkpoint if there is one"


@dataclass(frozen=True)
class Pace:
    """How often things happen, in steps."""

    lr: float  # at the start
    epoch_steps: int
    steps: int | None = None  # stop after so many in all
    log_steps: int = 10
    checkpoint_steps: int = 1000  # and at the end of each epoch
    seed: int = 0


class Trainer:
    """Trains `model` from the step it is at; `state_dict` is all that a later process needs to continue.

    batches(step, colour)   yields the rest of the epoch from that step: (images, labels, records), this rank's part
    evaluate()              returns the validation errors, or None if there is nothing to validate on
    save(name)              keeps `state_dict()` as "last" or "best"; called on every rank
    """

    def __init__(self, model: AlexNet, optimizer: PaperSGD, schedule: Schedule, pace: Pace, ranks: Ranks) -> None:
        """Take the parts; the model is on its device already."""
        self.model, self.optimizer, self.schedule, self.pace, self.ranks = model, optimizer, schedule, pace, ranks
        self.step = 0
        self.validated = 0  # epochs
        self.best_error = float("inf")

    def run(self, batches: Batches, evaluate: Callable[[], Evaluation | None], save: Callable[[str], None]) -> Iterator[Event]:
        """Train to the end of the schedule (or `pace.steps`); yields an event a step and one an evaluation.

        "tick" events only say that a step is done; "step" events carry loss (of that step's whole batch) and rates.
        Raises TrainingError when the loss is not finite.
        """
        network = self.ranks.wrap(self.model)
        self.model.train()
        yield from self._validate(evaluate, save)  # if a kill came between the epoch's last step and its validation
        while not self._ended():
            epoch = self.step // self.pace.epoch_steps
            phase = self.schedule.phase(epoch)
            self.optimizer.set_rates(phase.lr, phase.conv1, self.pace.lr)
            clock = _Clock()
            for images, labels, records in clock.watch(batches(self.step, phase.colour)):
                loss = self._update(network, images, labels, records)
                self.step += 1
                clock.images += len(labels) * self.ranks.world_size
                yield self._event(loss, phase.lr, epoch, clock)
                if self._out_of_steps():
                    break
                if self.step % self.pace.checkpoint_steps == 0 and self.step % self.pace.epoch_steps:
                    self._save(save, "last", loss)
            self._save(save, "last", loss)
            yield from self._validate(evaluate, save)

    def _ended(self) -> bool:
        return self._out_of_steps() or self.schedule.finished(self.step // self.pace.epoch_steps)

    def _out_of_steps(self) -> bool:
        return self.pace.steps is not None and self.step >= self.pace.steps

    def _update(self, network: torch.nn.Module, images: Tensor, labels: Tensor, records: Tensor) -> Tensor:
        """Take one step; return the mean loss over this rank's part of the batch."""
        self.optimizer.zero_grad()
        logits = network(images, dropout_keys(self.pace.seed, self.step, records))
        loss = F.cross_entropy(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def _event(self, loss: Tensor, lr: float, epoch: int, clock: "_Clock") -> Event:
        if self.step % self.pace.log_steps:
            return {"event": "tick", "step": self.step}
        mean = self._finite(loss)
        return {"event": "step", "step": self.step, "epoch": epoch + 1, "loss": mean, "lr": lr, **clock.read()}

    def _finite(self, loss: Tensor) -> float:
        """Return the loss over all ranks; TrainingError if it is not a number."""
        mean = float(self.ranks.sum(loss)) / self.ranks.world_size
        if not abs(mean) < float("inf"):
            raise TrainingError(f"the loss is {mean} at step {self.step}: {_DIVERGED}")
        return mean

    def _validate(self, evaluate: Callable[[], Evaluation | None], save: Callable[[str], None]) -> Iterator[Event]:
        """Validate the epoch that has just ended, unless that was done."""
        epoch, rest = divmod(self.step, self.pace.epoch_steps)
        if rest or epoch == self.validated:
            return
        result = evaluate()
        self.validated = epoch
        if result is not None:
            self.schedule.observe(result.top1_error)
            if result.top1_error < self.best_error:
                self.best_error = result.top1_error
                save("best")
            yield {"event": "eval", "step": self.step, "epoch": epoch, "views": 1, **asdict(result)}
        save("last")

    def _save(self, save: Callable[[str], None], name: str, loss: Tensor) -> None:
        self._finite(loss)  # never over a good checkpoint with a diverged one
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise TrainingError(f"a weight is not finite after step {self.step}: {_DIVERGED}")
        save(name)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values only, so that it loads with `weights_only=True`."""
        return {
            "step": self.step,
            "validated": self.validated,
            "best_error": self.best_error,
            "model": self.model.state_dict(),
            "velocities": self.optimizer.velocities(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        if min(int(state["step"]), int(state["validated"])) < 0:
            raise ValueError("a negative step")
        self.step, self.validated, self.best_error = int(state["step"]), int(state["validated"]), float(state["best_error"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_velocities(state["velocities"])
        self.schedule.load_state_dict(state["schedule"])


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

    def read(self) -> dict[str, float]:
        now = time.perf_counter()
        elapsed = now - self._start
        values = {"images_per_s": round(self.images / elapsed, 1), "wait_share": round(self._waited / elapsed, 4)}
        self.images, self._start, self._waited = 0, now, 0.0
        return values
