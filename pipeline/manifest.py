"""What is in a folder of shards: a sidecar a shard, and the manifest, written last, that makes them a data set.

Everything here is JSON or .npy without pickle, and follows from the plan alone: no dates, no paths of this machine.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt32

from .config import ShardConfig
from .errors import DataError
from .moments import Moments
from .storage import published, read_json, write_json

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """One file of records."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """The shards of one split, in order, and how many source images did not make it into them."""

    shards: tuple[Shard, ...]
    quarantined: int

    @property
    def records(self) -> int:
        """Records in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.shards)


@dataclass(frozen=True)
class Manifest:
    """A finished data set."""

    directory: Path
    plan: str  # sha256 of all that its bytes follow from
    config: ShardConfig
    classes: tuple[str, ...]
    splits: dict[str, Split]
    versions: dict[str, str]

    def split(self, name: str) -> Split:
        """Return a split; DataError names those there are."""
        if name not in self.splits:
            raise DataError(f"{self.directory} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]

    def moments(self, name: str) -> Moments:
        """Return the moments of a split: the sum of its sidecars'."""
        shards = self.split(name).shards
        total = Moments.zero(self.config.size)
        for shard in shards:
            sidecar = read_sidecar(self.directory / shard.file, self.config.size)
            if (sidecar.shard, sidecar.plan) != (shard, self.plan):
                raise DataError(f"the sidecar of {self.directory / shard.file} is of another job than {MANIFEST}; run alexprep shard again")
            total += sidecar.moments
        return total

    def write(self) -> None:
        """Publish manifest.json: from now on the folder is a data set."""
        splits = {
            name: {"records": split.records, "quarantined": split.quarantined, "shards": [asdict(shard) for shard in split.shards]}
            for name, split in self.splits.items()
        }
        value = {
            "format_version": FORMAT_VERSION,
            "plan": self.plan,
            "parameters": asdict(self.config),
            "versions": self.versions,
            "splits": splits,
            "classes": [[name, name] for name in self.classes],
        }
        write_json(self.directory / MANIFEST, value)


def read_manifest(directory: str | Path) -> Manifest:
    """Return the data set in `directory`; DataError if there is none, or it is not whole, or of another version."""
    directory = Path(directory)
    path = directory / MANIFEST
    if not path.is_file():
        unfinished = any(directory.glob("*.arrow.json"))
        remedy = "it is an unfinished job: run the same alexprep shard command again" if unfinished else "run alexprep shard first"
        raise DataError(f"no {path}: {remedy}")
    value = read_json(path)
    try:
        if value["format_version"] != FORMAT_VERSION:
            raise DataError(f"{path} has format version {value['format_version']}; this release reads version {FORMAT_VERSION}")
        splits = {
            str(name): Split(tuple(_shard(shard) for shard in split["shards"]), int(split["quarantined"])) for name, split in value["splits"].items()
        }
        classes = tuple(str(name) for name, _ in value["classes"])
        if not splits:
            raise ValueError("it has no splits")
        return Manifest(directory, str(value["plan"]), ShardConfig(**value["parameters"]), classes, splits, dict(value["versions"]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is not a manifest of ours ({type(error).__name__}: {error}); restore it") from error


def _shard(value: dict[str, Any]) -> Shard:
    shard = Shard(str(value["file"]), int(value["rows"]), int(value["bytes"]), str(value["sha256"]))
    if Path(shard.file).name != shard.file or shard.file.startswith("."):
        raise ValueError(f"a shard's name must not leave its folder: {shard.file!r}")
    if shard.rows < 0 or shard.bytes < 0:
        raise ValueError(f"{shard.file} has negative sizes")
    return shard


@dataclass(frozen=True)
class Sidecar:
    """What a finished shard says of itself, beside it."""

    shard: Shard
    plan: str
    label_counts: dict[int, int]
    quarantined: tuple[tuple[str, str], ...]  # key, reason
    moments: Moments

    def write(self, directory: Path) -> None:
        """Publish the per-pixel sums, then the sidecar; the shard counts as done from here on."""
        pixel_sum: UInt32[np.ndarray, "s s 3"] = self.moments.pixel_sum.astype(np.uint32)
        with published(_pixel_sum_path(directory / self.shard.file)) as file:
            np.save(file, pixel_sum, allow_pickle=False)
        value = {
            **asdict(self.shard),
            "plan": self.plan,
            "label_counts": {str(label): count for label, count in sorted(self.label_counts.items())},
            "quarantined": [{"key": key, "reason": reason} for key, reason in self.quarantined],
            "moments": self.moments.to_json(),
        }
        write_json(_sidecar_path(directory / self.shard.file), value)


def _sidecar_path(shard: Path) -> Path:
    return shard.with_name(shard.name + ".json")


def _pixel_sum_path(shard: Path) -> Path:
    return shard.with_name(shard.name + ".pixelsum.npy")


def read_sidecar(shard: Path, size: int) -> Sidecar:
    """Return the sidecar of the file `shard`, its moments included; DataError if it is not there or makes no sense."""
    path = _sidecar_path(shard)
    value = read_json(path)
    try:
        pixel_sum = np.load(_pixel_sum_path(shard), allow_pickle=False)
        if pixel_sum.shape != (size, size, 3) or pixel_sum.dtype != np.uint32:
            raise ValueError(f"its per-pixel sums are {pixel_sum.dtype}{list(pixel_sum.shape)}")
        sidecar = Sidecar(
            _shard(value),
            str(value["plan"]),
            {int(label): int(count) for label, count in value["label_counts"].items()},
            tuple((str(bad["key"]), str(bad["reason"])) for bad in value["quarantined"]),
            Moments.from_json(value["moments"], pixel_sum.astype(np.uint64)),
        )
        if not sidecar.shard.rows == sidecar.moments.images == sum(sidecar.label_counts.values()):
            raise ValueError("its rows, images and label counts differ")
    except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, OverflowError, DataError) as error:
        raise DataError(
            f"{path} is not a sidecar of ours ({type(error).__name__}: {error}); delete it with its shard, and run alexprep shard again"
        ) from error
    return sidecar


def read_finished(shard: Path, plan: str, size: int) -> Sidecar | None:
    """Return the sidecar if the shard is finished under this plan; None if it is still to be made."""
    if not _sidecar_path(shard).is_file():
        return None
    sidecar = read_sidecar(shard, size)
    if sidecar.plan != plan:
        raise DataError(
            f"{shard.parent} holds shards of another job ({shard.name}): the source's files or the options were different. "
            "Give the same ones to continue it, choose another --out, or delete the folder"
        )
    whole = shard.is_file() and shard.stat().st_size == sidecar.shard.bytes
    return sidecar if whole else None


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
