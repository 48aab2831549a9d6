"""`alextrain report`: write the page of a run, or of several."""

from pathlib import Path

import click

from ..options import RUN_DATA, RUNS, Grouped, check_place


@click.command(cls=Grouped)
@RUNS
@RUN_DATA
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: RUN/report.html; for several runs, report.html]")
def report(directories: tuple[Path, ...], data: Path | None, out: Path | None) -> None:
    """Write the page of a run again, or one page for several runs.

    It is made from what the runs have kept. One HTML file that needs nothing else: it opens from the disk, without a network.
    """
    from alexprep.experiment.reporting.report_data import REPORT, write_report
    from alexprep.experiment.run_folder import RunFolder

    check_place(out, ".html")
    folders = [RunFolder.existing(directory) for directory in directories]
    click.echo(str(write_report(folders, out or (folders[0].directory / REPORT if len(folders) == 1 else Path(REPORT)), data)))
