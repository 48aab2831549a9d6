"""`alexprep doctor`: check whether this machine has what alexprep needs."""

import click

from ..options import JSON, Grouped
from ..text import print_json


@click.command(cls=Grouped)
@JSON
def doctor(as_json: bool) -> None:
    """Print what this machine has and lacks.

    For what is missing it says what to install; exit code 1 if something is. It installs nothing and uses no network.
    """
    from alexprep.pipeline.inspection.doctor import judge, look

    findings = judge(look())
    bad = sum(finding.state == "bad" for finding in findings)
    if as_json:
        print_json({"ready": not bad, "findings": [finding._asdict() for finding in findings]})
    else:
        for finding in findings:
            click.echo(f"{finding.state:<6}{finding.what:<16}{finding.text}")
    if bad:
        raise click.ClickException(f"{bad} problem{'s' if bad > 1 else ''} to fix")
