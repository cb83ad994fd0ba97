"""`ankisyncctl init`: makes the bucket and the table, for development and S3-compatible stores."""

from __future__ import annotations

import click

from app.cli.audit import Change
from app.cli.context import Admin


@click.command(cls=Change)
@click.pass_obj
def init(admin: Admin) -> None:
    """Make the bucket and the table of ANKISYNCD_BACKEND=aws where they are missing.

    For production on AWS, Terraform makes them, with encryption, backups and alarms.
    """
    if admin.settings.cloud is None:
        raise click.UsageError("ANKISYNCD_BACKEND=local needs no init")
    from app.cloud import CLOUD_ERRORS, find_faults, make_stores  # noqa: PLC0415 - only the cloud needs the SDK

    try:
        made = list(make_stores(admin.settings))
    except CLOUD_ERRORS as exc:
        raise click.ClickException(str(exc)) from exc
    for line in made or ["everything was there"]:
        click.echo(line)
    if faults := [finding.text for finding in find_faults(admin.settings)]:
        raise click.ClickException("\n".join(["but the server would not start:", *faults]))
