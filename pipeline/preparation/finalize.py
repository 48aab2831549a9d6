"""Finish a job: write the quarantine list and the manifest, from the sidecars alone.

A folder with a manifest is a data set.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace

from ..errors import DataError
from ..shards.manifest import MANIFEST, Manifest, Split, read_manifest
from ..shards.sidecar import Sidecar, read_finished, read_sidecar
from ..storage.files import published
from ..storage.uri import Location, present
from .plan import JOB, ShardPlan, read_plan
from .shard_task import Quarantined

QUARANTINE = "quarantine.jsonl"


def finalize(directory: Location, plan: ShardPlan | None = None) -> Manifest:
    """Write the quarantine list and the manifest of the job `plan` (None: that of job.json). Raise DataError if a shard is missing."""
    if (directory / MANIFEST).is_file() and (before := read_manifest(directory)).plans:
        # Images were appended: the job's own shards are not the whole data set.
        return commit(before, sidecars_of(before))
    plan = plan or read_plan(directory)
    if plan is None:
        raise DataError(f"no {directory / JOB}: nothing was begun here; run alexprep shard --part 1/n first")
    manifest = Manifest(directory, plan.digest, plan.config, plan.classes, {}, plan.versions, plan.source, plan.left_out)
    return commit(manifest, finished_shards(directory, plan))


def extend(manifest: Manifest, plan: ShardPlan) -> Manifest:
    """Write and return the manifest with the shards of `plan` after its own."""
    sidecars = sidecars_of(manifest)
    for split, more in finished_shards(manifest.directory, plan).items():
        sidecars[split] = [*sidecars.get(split, []), *more]
    plans = (*manifest.shard_plans, plan.digest)
    left_out = dict(manifest.left_out)
    for split, facts in plan.left_out.items():
        before = left_out.get(split, {"classes": [], "images": 0})
        left_out[split] = {"classes": sorted({*before["classes"], *facts["classes"]}), "images": before["images"] + facts["images"]}
    digest = hashlib.sha256("\n".join(plans).encode()).hexdigest()
    return commit(replace(manifest, plans=plans, plan=digest, left_out=left_out), sidecars)


def commit(manifest: Manifest, sidecars: dict[str, list[Sidecar]]) -> Manifest:
    """Write the quarantine list, then `manifest` with the shards that `sidecars` describe. Raise DataError if there is no record at all."""
    bad = [Quarantined(split, key, reason) for split, found in sidecars.items() for sidecar in found for key, reason in sidecar.quarantined]
    write_quarantine(manifest.directory, bad)
    if not any(sidecar.shard.rows for found in sidecars.values() for sidecar in found):
        raise DataError(f"none of the {len(bad)} images is usable, so there is no data set; {manifest.directory / QUARANTINE} says why")
    splits = {split: Split(tuple(sidecar.shard for sidecar in found), quarantined(found)) for split, found in sidecars.items()}
    manifest = replace(manifest, splits=splits)
    manifest.write()
    return manifest


def sidecars_of(manifest: Manifest) -> dict[str, list[Sidecar]]:
    """Return the sidecars of the shards that a manifest names, by split."""
    return {name: [read_sidecar(manifest.directory / shard.file) for shard in split.shards] for name, split in manifest.splits.items()}


def quarantined(sidecars: Iterable[Sidecar]) -> int:
    """Return how many source images the shards left out."""
    return sum(len(sidecar.quarantined) for sidecar in sidecars)


def finished_shards(directory: Location, plan: ShardPlan) -> dict[str, list[Sidecar]]:
    """Return the sidecars of all shards of `plan`, by split; DataError names the missing shards."""
    files = present(directory)
    found: dict[str, list[Sidecar]] = {split: [] for split in plan.images}
    missing: list[str] = []
    for split in plan.images:
        for name in plan.shards(split):
            sidecar = read_finished(directory / name, plan.digest, files)
            if sidecar is None:
                missing.append(name)
            else:
                found[split].append(sidecar)
    if missing:
        total = len(missing) + sum(map(len, found.values()))
        shown = "".join(f"\n  {name}" for name in missing[:5]) + ("\n  ..." if len(missing) > 5 else "")
        remedy = "Run the parts that make them (the same --part i/n again)"
        raise DataError(f"{directory}: {len(missing)} of {total} shards are not made yet:{shown}\n{remedy}")
    return found


def write_quarantine(directory: Location, bad: list[Quarantined]) -> None:
    """Publish quarantine.jsonl: one {"split", "key", "reason"} per line, sorted."""
    with published(directory / QUARANTINE) as file:
        for item in sorted(bad):
            file.write((json.dumps(item._asdict(), ensure_ascii=False) + "\n").encode())
