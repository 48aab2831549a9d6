"""Read and write the manifest of a data set and the sidecars of its shards.

A folder holds one sidecar per shard, and the manifest, which is written last and makes the folder a
data set. All of these are JSON, or .npy without pickle. They follow from the plan alone: they hold
no dates and no paths of this machine.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt32

from ..config import ShardConfig
from ..errors import DataError
from ..imaging.moments import Moments
from ..names import safe_file, safe_part
from ..storage.files import read_array, read_json, write_array, write_json
from ..storage.uri import Location, location

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """One file of records."""

    file: str
    rows: int
    bytes: int
    sha256: str
    # SHA-256 that binds the pixel sums to the shard (`sums_digest`).
    # "": the shard is from an early release, which wrote none.
    sums_sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the shard as the manifest and the sidecar store it."""
        return {name: value for name, value in asdict(self).items() if name != "sums_sha256" or value}


@dataclass(frozen=True)
class Split:
    """The shards of one split, in order, and the number of source images that were quarantined."""

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

    directory: Location
    plan: str  # SHA-256 of everything that determines its bytes
    config: ShardConfig
    classes: tuple[str, ...]
    splits: dict[str, Split]
    versions: dict[str, str]
    source: dict[str, str] = field(default_factory=dict)  # shape and fingerprint of the source
    # By split: {"classes": those that train does not have, "images": number of their images}.
    left_out: dict[str, Any] = field(default_factory=dict)
    # Plans of the first job and of each append, in order; empty: `plan` alone.
    plans: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the folder, and how much each split has; the shards themselves would fill the screen."""
        splits = ", ".join(f"{name}: {split.records:,} records" for name, split in self.splits.items())
        return f"Manifest({str(self.directory)!r}, {len(self.classes):,} classes, {splits})"

    @property
    def shard_plans(self) -> tuple[str, ...]:
        """The plans to which its shards may belong."""
        return self.plans or (self.plan,)

    @property
    def main_split(self) -> str:
        """The training split; without one, the first split."""
        return "train" if "train" in self.splits else next(iter(self.splits))

    def split(self, name: str) -> Split:
        """Return a split; raise DataError, which names the existing splits, if there is none."""
        if name not in self.splits:
            raise DataError(f"{self.directory} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]

    def moments(self, name: str) -> Moments:
        """Return the moments of a split: the sum of its sidecars' moments.

        Raise DataError if a sidecar is damaged, or does not match the manifest.
        """
        shards = self.split(name).shards
        total = Moments.zero(self.config.size)
        for shard in shards:
            path = self.directory / shard.file
            sidecar = read_sidecar(path)
            if sidecar.shard != shard or sidecar.plan not in self.shard_plans:
                raise DataError(f"the sidecar of {path} is of another job than {MANIFEST}; alexprep repair makes it again")
            total += sidecar.moments(path, self.config.size)
        return total

    def write(self) -> None:
        """Publish manifest.json, which makes the folder a data set."""
        splits = {
            name: {"records": split.records, "quarantined": split.quarantined, "shards": [shard.to_json() for shard in split.shards]}
            for name, split in self.splits.items()
        }
        value = {
            "format_version": FORMAT_VERSION,
            "plan": self.plan,
            "parameters": self.config.to_json(),
            "versions": self.versions,
            "source": self.source,
            **({"plans": self.plans} if self.plans else {}),
            **({"left_out": self.left_out} if self.left_out else {}),
            "splits": splits,
            "classes": [[name, name] for name in self.classes],
        }
        write_json(self.directory / MANIFEST, value)


def read_manifest(directory: str | Location) -> Manifest:
    """Return the data set in `directory`.

    Raise DataError if there is none, or if it is unfinished, damaged, or of another version.
    """
    directory = location(directory)
    path = directory / MANIFEST
    if not path.is_file():
        unfinished = any(directory.glob("*.arrow.json"))
        remedy = "it is an unfinished job: run the same alexprep shard command again" if unfinished else "run alexprep shard first"
        raise DataError(f"no {path}: {remedy}")
    value = read_json(path)
    try:
        if value["format_version"] != FORMAT_VERSION:
            raise DataError(f"{path} has format version {value['format_version']!r}; this release reads version {FORMAT_VERSION}")
        splits = {
            str(name): Split(tuple(_shard(shard) for shard in split["shards"]), int(split["quarantined"])) for name, split in value["splits"].items()
        }
        classes = tuple(str(name) for name, _ in value["classes"])
        if not splits:
            raise ValueError("it has no splits")
        files = [shard.file for split in splits.values() for shard in split.shards]
        twice = sorted({file for file in files if files.count(file) > 1}) if len(set(files)) < len(files) else []
        if twice:
            raise ValueError(f"it names {twice[0]} twice")
        for name, split in splits.items():
            if value["splits"][name]["records"] != split.records:
                raise ValueError(f"its shards of {name} have {split.records} rows, not the {value['splits'][name]['records']} that it says")
        for name in splits:
            safe_file(name, "the split")
        for name in classes:
            safe_part(name, "the class")
        config, source = ShardConfig(**value["parameters"]), dict(value.get("source", {}))
        plans = tuple(map(str, value.get("plans", ())))
        return Manifest(directory, str(value["plan"]), config, classes, splits, dict(value["versions"]), source, left_out(value), plans)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is not a manifest of ours ({type(error).__name__}: {error}); restore it") from error


def left_out(value: dict[str, Any]) -> dict[str, Any]:
    """Return the checked `left_out` of a manifest or a job; {} if it has none.

    Raise ValueError, KeyError or TypeError if it is not valid.
    """
    found = {}
    for split, facts in value.get("left_out", {}).items():
        classes, images = [safe_part(name, "the class") for name in facts["classes"]], facts["images"]
        if type(images) is not int or images < 1 or not classes:
            raise ValueError(f"left_out has {facts!r} for {split}")
        found[safe_file(split, "the split")] = {"classes": classes, "images": images}
    return found


def is_sha256(text: str) -> bool:
    """Return whether `text` is a hexadecimal SHA-256: it becomes a file name in a cache."""
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def _shard(value: dict[str, Any]) -> Shard:
    if not all(type(value[name]) is kind for name, kind in (("file", str), ("rows", int), ("bytes", int), ("sha256", str))):
        raise TypeError(f"a shard has a file, rows, bytes and sha256, not {value}")
    shard = Shard(str(value["file"]), int(value["rows"]), int(value["bytes"]), str(value["sha256"]), value.get("sums_sha256", ""))
    safe_file(shard.file, "the shard")
    if not 0 <= shard.rows <= shard.bytes < 1 << 60:
        raise ValueError(f"{shard.file} cannot have {shard.rows} rows in {shard.bytes} bytes")
    if not is_sha256(shard.sha256):
        raise ValueError(f"{shard.file} cannot have the SHA-256 {shard.sha256!r}")
    if not isinstance(shard.sums_sha256, str) or not (shard.sums_sha256 == "" or is_sha256(shard.sums_sha256)):
        raise ValueError(f"{shard.file} cannot have sums with the SHA-256 {shard.sums_sha256!r}")
    return shard


@dataclass(frozen=True)
class Sidecar:
    """The description of a finished shard, in a file beside it."""

    shard: Shard
    plan: str
    label_counts: dict[int, int]
    quarantined: tuple[tuple[str, str], ...]  # (key, reason) of each quarantined image
    sums: dict[str, Any]  # sums of its pixels, as Moments.to_json gives them

    def moments(self, path: Location, size: int) -> Moments:
        """Return the moments of the shard at `path`, with the per-pixel sums.

        Raise DataError if the sums are damaged, if no images can have them, or if they differ from
        those counted when the shard was written.
        """
        beside = _pixel_sum_path(path)
        try:
            pixel_sum = read_array(beside, 4 * 3 * size * size)
            if pixel_sum.shape != (size, size, 3) or pixel_sum.dtype != np.uint32:
                raise ValueError(f"they are {pixel_sum.dtype}{list(pixel_sum.shape)}")
        except (OSError, ValueError, DataError) as error:
            raise DataError(f"{beside}: the per-pixel sums cannot be used ({error}); alexprep repair makes the shard again") from error
        try:
            if self.shard.sums_sha256 and sums_digest(self.shard.sha256, self.sums, pixel_sum) != self.shard.sums_sha256:
                raise ValueError("they are not those that were counted when it was written")
            return Moments.from_json(self.sums, pixel_sum.astype(np.uint64))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            names = f"{sidecar_path(path)} and {beside.name} beside it"
            raise DataError(f"{names}: the sums cannot be used ({error}); alexprep repair makes the shard again") from error

    def write(self, directory: Location, moments: Moments) -> None:
        """Publish the per-pixel sums, then the sidecar, which marks the shard as finished."""
        write_array(_pixel_sum_path(directory / self.shard.file), moments.pixel_sum.astype(np.uint32))
        value = {
            **self.shard.to_json(),
            "plan": self.plan,
            "label_counts": {str(label): count for label, count in sorted(self.label_counts.items())},
            "quarantined": [{"key": key, "reason": reason} for key, reason in self.quarantined],
            "moments": self.sums,
        }
        write_json(sidecar_path(directory / self.shard.file), value)


def sums_digest(shard_sha256: str, sums: dict[str, Any], pixel_sum: UInt32[np.ndarray, "s s 3"]) -> str:
    """Return the SHA-256 that binds the sums of pixels to their shard."""
    facts = json.dumps([shard_sha256, sums["images"], sums["total"], sums["outer"]], separators=(",", ":"))
    digest = hashlib.sha256(facts.encode())
    digest.update(np.ascontiguousarray(pixel_sum, "<u4").tobytes())
    return digest.hexdigest()


def sidecar_path(shard: Location) -> Location:
    """Return the path of the sidecar of the file `shard`."""
    return shard.with_name(shard.name + ".json")


def _pixel_sum_path(shard: Location) -> Location:
    return shard.with_name(shard.name + ".pixelsum.npy")


def files_of(shard: str) -> tuple[str, str, str]:
    """Return the names of a shard's three files: the shard, its sidecar, its per-pixel sums."""
    return shard, f"{shard}.json", f"{shard}.pixelsum.npy"


def read_sidecar(shard: Location) -> Sidecar:
    """Return the sidecar of the file `shard`; raise DataError if it is missing or not valid."""
    path = sidecar_path(shard)
    value = read_json(path)
    try:
        sidecar = Sidecar(
            _shard(value),
            str(value["plan"]),
            {int(label): int(count) for label, count in value["label_counts"].items()},
            tuple((str(bad["key"]), str(bad["reason"])) for bad in value["quarantined"]),
            dict(value["moments"]),
        )
        if not sidecar.shard.rows == int(sidecar.sums["images"]) == sum(sidecar.label_counts.values()):
            raise ValueError("its rows, images and label counts differ")
        if sidecar.shard.file != shard.name:
            raise ValueError(f"it is the sidecar of {sidecar.shard.file}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is not a sidecar of ours ({type(error).__name__}: {error}); alexprep repair makes the shard again") from error
    return sidecar


def read_finished(shard: Location, plan: str, files: dict[str, int]) -> Sidecar | None:
    """Return the sidecar if the shard is finished under `plan`; None if it still has to be made.

    `files` is {name: bytes} of the files in its folder. Raise DataError if the sidecar is damaged
    or belongs to another plan.
    """
    file, beside, sums = files_of(shard.name)
    if beside not in files:
        return None
    sidecar = read_sidecar(shard)
    if sidecar.plan != plan:
        raise DataError(
            f"{shard.parent} holds shards of another job ({shard.name}): the source's files or the options were different. "
            "Give the same ones to continue it, choose another --out, or delete the folder"
        )
    return sidecar if files.get(file) == sidecar.shard.bytes and sums in files else None
