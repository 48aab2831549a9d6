"""Tell whether a launcher started this process as one of several ranks.

In: the environment variables that torchrun sets.
"""

import os
from dataclasses import dataclass

from .errors import TrainingError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launched:
    """The launcher's facts about this rank."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int

    @property
    def others(self) -> str:
        """The number of other ranks and their rendezvous address, as text for a message."""
        count = self.world_size - 1
        return f"{count} other rank{'s' * (count != 1)} at {self.address}:{self.port}"


def launched() -> Launched | None:
    """Return what torchrun, or a launcher that sets the same variables, says about this rank.

    Return None if RANK is not set: then this process is alone. Raise TrainingError, naming the
    variable, if one is missing or invalid.
    """
    if "RANK" not in os.environ:
        return None
    missing = [name for name in NAMES if not os.environ.get(name)]
    if missing:
        raise TrainingError(
            f"RANK is set but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not: "
            f"a launcher sets all of {', '.join(NAMES)}. Start this with torchrun, or unset RANK to train in one process"
        )
    rank, world_size, local_rank, port = (_whole(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"))
    if not 0 <= rank < world_size:
        raise TrainingError(f"RANK is {rank} and WORLD_SIZE is {world_size}: a rank is 0 to WORLD_SIZE - 1")
    if not 0 < port < 1 << 16:
        raise TrainingError(f"MASTER_PORT is {port}: a port is 1 to 65535")
    return Launched(rank, world_size, local_rank, os.environ["MASTER_ADDR"], port)


def _whole(name: str) -> int:
    text = os.environ[name]
    if not (text.isascii() and text.isdecimal()):
        raise TrainingError(f"{name} is {text!r}: expected a whole number, as torchrun sets it")
    return int(text)
