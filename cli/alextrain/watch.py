"""`alextrain watch`: serve the page of runs while they train."""

from pathlib import Path

import click

from ..options import RUN_DATA, RUNS, Grouped
from ..text import say


@click.command(cls=Grouped)
@RUNS
@RUN_DATA
@click.option("--port", default=8008, show_default=True, type=click.IntRange(0, 65535), help="Port on 127.0.0.1; 0: any that is free.")
def watch(directories: tuple[Path, ...], data: Path | None, port: int) -> None:
    """Serve the page of runs while they train.

    Its curves grow. It can be seen on this machine only (127.0.0.1). Ctrl-C ends it.
    """
    from alexprep.experiment.reporting.live_report import serve
    from alexprep.experiment.run_folder import RunFolder
    from alexprep.pipeline import read_manifest

    folders = [RunFolder.existing(directory) for directory in directories]
    if data is not None:
        read_manifest(data)  # reports errors here instead of in the browser
    shown = ", ".join(str(folder.directory) for folder in folders)
    serve(folders, data, port, lambda address: say(f"{address} shows {shown}; Ctrl-C ends it"))
