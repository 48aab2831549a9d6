"""The description of a finished shard, in a file beside it: read, checked and written."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt32

from ..errors import DataError
from ..imaging.moments import Moments
from ..names import safe_file
from ..storage.files import read_array, read_json, write_array, write_json
from ..storage.uri import Location

FORMAT_VERSION = 1


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


def is_sha256(text: str) -> bool:
    """Return whether `text` is a hexadecimal SHA-256: it becomes a file name in a cache."""
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def shard_of(value: dict[str, Any]) -> Shard:
    """Return a shard as the manifest and the sidecar store it; TypeError, ValueError or DataError for what cannot be one."""
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
            shard_of(value),
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
