"""`alexprep demo-data` draws a small data set; `alexprep demo` runs the whole job on one."""

import json
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from alexprep.experiment.process.programs import again

from ..options import Grouped
from ..progress import Bar
from ..text import say


@click.command("demo-data", cls=Grouped)
@click.option("--out", default=Path("imagenet"), show_default=True, type=click.Path(path_type=Path), help="New folder.")
@click.option("--train", default=60, show_default=True, type=click.IntRange(8, 10000), help="Training images per class.")
@click.option("--val", default=20, show_default=True, type=click.IntRange(4, 10000), help="Validation images per class.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the pictures.")
def demo_data(out: Path, train: int, val: int, seed: int) -> None:
    """Draw a small ImageNet-like folder with ten classes.

    The classes can be learnt. ImageNet's odd files are among the images: grey, CMYK, EXIF-rotated and tiny JPEGs, a PNG named
    .JPEG, a truncated JPEG and a text file.
    """
    from alexprep.pipeline.inspection.demo_data import CLASSES, write_demo_data

    total = (train + val) * len(CLASSES) + 1
    bar = Bar("draw", total, "files")
    # closing the generator, also at Ctrl-C, leaves no partial folder behind
    with closing(write_demo_data(out, train, val, seed)) as drawing:
        for count in drawing:
            bar.at(count)
    bar.close()
    click.echo(f"{out}: {len(CLASSES)} classes, {total} files in train/ and val/")


@click.command(cls=Grouped)
@click.option("--out", default=Path("demo"), show_default=True, type=click.Path(path_type=Path), help="Folder for data, shards and the run.")
def demo(out: Path) -> None:
    """Run the whole job on drawn pictures.

    Data, shards, statistics, training and evaluation take some minutes on two cores.
    """
    _run_demo(out)


# Settings that train well within five minutes on two cores: a quarter of the kernels, and small
# batches for many steps. Seeds 0 and 1 end at 6.5 % and 2.5 % top-1 error with ten views (chance is
# 90 %; docs/performance.md).
TRAINING = ("--width", "0.25", "--batch-size", "16", "--epochs", "28", "--set", "schedule=fixed", "--set", "drops=0.4,0.75")


def _run_demo(out: Path) -> None:
    """Run every step, showing its command line; stop at the first that fails."""
    start = time.monotonic()
    images, shards, runs = out / "imagenet", out / "shards", out / "runs"
    if not images.exists():
        _call("alexprep", "demo-data", "--out", images)
    packed = _call("alexprep", "shard", "--src", images, "--out", shards, read=True)
    stats = _call("alexprep", "stats", shards, "--pca", read=True)
    begun = (runs / "demo" / "config.toml").exists()
    _call("alextrain", "run", shards, "--out", runs / "demo", *(["--resume"] if begun else TRAINING))
    results = [_call("alextrain", "eval", "--checkpoint", runs / "demo", "--data", shards, "--crops", crops, read=True) for crops in ("10", "1")]
    _summary(out, packed, stats, results, time.monotonic() - start)


def _call(program: str, *arguments: object, read: bool = False) -> Any:  # noqa: ANN401  (the command's JSON)
    words = [str(word) for word in arguments]
    say(f"\n$ {program} {' '.join(words)}")
    command = [*again(program), *words]
    done = subprocess.run([*command, "--json"] if read else command, stdout=subprocess.PIPE if read else None, check=False)
    if done.returncode:
        raise click.ClickException(f"{program} {words[0]} failed, see above")
    return json.loads(done.stdout) if read else None


def _summary(out: Path, packed: Any, stats: Any, results: Any, seconds: float) -> None:  # noqa: ANN401
    run = out / "runs" / "demo"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = sorted(row["images_per_s"] for row in rows if row["event"] == "step")
    shards = packed["splits"]
    records, bad = (sum(split[what] for split in shards.values()) for what in ("records", "quarantined"))
    click.echo(f"\nThe whole job took {seconds:.0f} s.\n")
    click.echo(f"images in     {records + bad}: {records} records, {bad} quarantined")
    for line in (out / "shards" / "quarantine.jsonl").read_text().splitlines():
        item = json.loads(line)
        click.echo(f"              {item['key']}: {item['reason']}")
    click.echo(f"eigenvalues   {', '.join(f'{x:.1f}' for x in stats['eigenvalues'])}")
    click.echo(f"throughput    shard {(records + bad) / max(packed['seconds'], 0.01):.0f} images/s, train {speeds[len(speeds) // 2]:.0f} images/s")
    for result in results:
        views = "ten views" if result["crops"] == 10 else "one view "
        click.echo(
            f"{views}     top-1 error {100 * result['top1_error']:.1f} %, top-5 error {100 * result['top5_error']:.1f} % of {result['count']} images"
        )
    for what, path in (("images", out / "imagenet"), ("shards", out / "shards"), ("checkpoint", run / "last.pt"), ("report", run / "report.html")):
        click.echo(f"{what:<14}{path}")
