"""Settings of a network and of its training.

No torch here: the command line reads these fields to make its options. Limits and meanings stand
in the annotations, from which checks, options, help texts and docs/settings.md are made.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval, doc

Activation = Literal["relu", "tanh"]
Precision = Literal["float32", "bfloat16"]
ScheduleName = Literal["scripted", "plateau", "fixed"]
LayoutName = Literal["auto", "data", "towers", "hybrid"]


@dataclass(frozen=True)
class Ablations:
    """Switches for the paper's ablations; the defaults change nothing."""

    activation: Annotated[Activation, doc("Nonlinearity of every layer")] = "relu"
    norm: Annotated[bool, doc("Response normalisation")] = True
    overlap: Annotated[bool, doc("Pooling windows of 3 at a stride of 2; without it, windows of 2")] = True
    dropout: Annotated[bool, doc("Dropout in the first two fully connected layers")] = True
    # without exchange, conv2 has 160 maps a tower and fc6 4096 units (the authors' net 150)
    exchange: Annotated[bool, doc("Third convolution and first fully connected layer see both towers")] = True
    sixth: Annotated[bool, doc('A sixth convolution over the last pooling layer, of both towers ("1 CNN*")')] = False

    def __post_init__(self) -> None:
        """Refuse an unknown activation; ValueError."""
        if self.activation not in ("relu", "tanh"):
            raise ValueError(f"activation must be relu or tanh, got {self.activation!r}")


NONE = Ablations()  # the whole network


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Which network is trained."""

    preset: Annotated[str, doc("Network and recipe: source is what the authors ran, paper is what the text says")] = "source"
    width: Annotated[float, Interval(gt=0, le=16), doc("Factor on the number of kernels of every layer")] = 1.0
    model: Annotated[str, doc("Network of your own, PACKAGE:FUNCTION, called with classes=; empty: AlexNet")] = ""
    ablations: Ablations = field(default_factory=Ablations)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How the network is trained, and how often something is written."""

    epochs: Annotated[int, Interval(ge=1, le=10**6), doc("Epochs of the whole schedule")] = 95
    steps: Annotated[int, Interval(ge=0), doc("Steps after which training stops; 0: at the end of the schedule")] = 0
    until: Annotated[float, Interval(ge=0, lt=1), doc("Mean training error of an epoch, a share, at which training stops; 0: never")] = 0.0
    lr: Annotated[float, Interval(gt=0, lt=float("inf")), doc("Learning rate at the start")] = 0.01
    weight_decay: Annotated[float, Interval(ge=0, le=1), doc("Weight decay")] = 0.0005
    schedule: Annotated[ScheduleName, doc("Learning rate schedule: scripted is the authors' own, plateau follows the validation error")] = "scripted"
    plateau_epochs: Annotated[int, Interval(ge=1), doc("Epochs without a better validation error that count as a plateau")] = 4
    drops: Annotated[str, doc("Shares of the run at which the fixed schedule divides the learning rate by 10")] = "0.5,0.75"
    precision: Annotated[Precision, doc("Arithmetic, by autocast; weights and their updates stay float32")] = "float32"
    compile: Annotated[bool, doc("Compilation by torch.compile, which needs a C++ compiler on a CPU")] = False
    accumulate: Annotated[int, Interval(ge=1), doc("Parts of a batch, computed one after the other: less memory, the same step")] = 1
    ema: Annotated[float, Interval(ge=0, lt=1), doc("Decay of a running mean of the weights, which is then evaluated; 0: none")] = 0.0
    parallel: Annotated[LayoutName, doc("Layout of the network on several ranks; auto: the one that sends the fewest bytes")] = "auto"
    gradients: Annotated[Precision, doc("Number format in which ranks average gradients")] = "float32"
    deterministic: Annotated[bool, doc("Only algorithms that give the same bits again; others are refused")] = False
    log_steps: Annotated[int, Interval(ge=1), doc("Steps between two rows of metrics")] = 10
    checkpoint_steps: Annotated[int, Interval(ge=1), doc("Steps between two checkpoints; each epoch ends with one too")] = 1000
    checkpoint_minutes: Annotated[float, Interval(ge=0, le=1e8), doc("Minutes after which a checkpoint is due anyway; 0: never")] = 0.0

    def drop_shares(self) -> list[float]:
        """Return `drops` as numbers; ValueError if they are not shares of 1."""
        try:
            shares = [float(word) for word in self.drops.split(",") if word.strip()]
        except ValueError:
            shares = [-1.0]
        if not all(0 < share <= 1 for share in shares):
            raise ValueError(f"drops are shares of the run, such as 0.5,0.75; got {self.drops!r}")
        return shares
