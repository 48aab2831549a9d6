"""Read and write the manifest of a data set.

A folder holds one sidecar per shard, and the manifest, which is written last and makes the folder a
data set. All of these are JSON, or .npy without pickle. They follow from the plan alone: they hold
no dates and no paths of this machine.
"""

from dataclasses import dataclass, field
from typing import Any

from ..config import ShardConfig
from ..errors import DataError
from ..imaging.moments import Moments
from ..names import safe_file, safe_part
from ..storage.files import read_json, write_json
from ..storage.uri import Location, location
from .sidecar import FORMAT_VERSION, Shard, read_sidecar, shard_of

MANIFEST = "manifest.json"


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
    """Return the data set in `directory`. Raise DataError if there is none, or if it is unfinished, damaged, or of another version."""
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
            str(name): Split(tuple(shard_of(shard) for shard in split["shards"]), int(split["quarantined"]))
            for name, split in value["splits"].items()
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
    """Return the checked `left_out` of a manifest or a job; {} if it has none. Raise ValueError, KeyError or TypeError if it is not valid."""
    found = {}
    for split, facts in value.get("left_out", {}).items():
        classes, images = [safe_part(name, "the class") for name in facts["classes"]], facts["images"]
        if type(images) is not int or images < 1 or not classes:
            raise ValueError(f"left_out has {facts!r} for {split}")
        found[safe_file(split, "the split")] = {"classes": classes, "images": images}
    return found
