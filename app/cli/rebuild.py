"""`ankisyncctl rebuild-heads`: head records made anew from the stored objects."""

from __future__ import annotations

import contextlib
import sys

import click

from app.cli import store
from app.cli.audit import Change
from app.cli.context import Admin
from app.cli.output import Row, show
from app.main import Stores, new_nonce, now_ms
from app.rebuilding import Outcome, Rebuilding, State
from storage.database.format.keys import user_prefix
from storage.database.maintenance.mark import HeadsMark
from storage.heads.keys import check_user
from storage.types import UserId

_COLUMNS = ("user", "database", "state", "record", "version", "newest", "note")


@click.command("rebuild-heads", cls=Change)
@click.argument("name", required=False)
@click.option("--dry-run", "is_dry", is_flag=True, help="Only say what would be done.")
@store.as_json
@click.pass_obj
def rebuild_heads(admin: Admin, name: str | None, *, is_dry: bool, as_json: bool) -> None:
    """Make the head records anew from the stored objects, of the user NAME (or id) or of all.

    For when the DynamoDB table or heads.sqlite is lost, or was put back to an earlier moment than the
    objects. Records that are right are left alone, so it may be broken off and run again. Devices go on
    with an ordinary sync. Prints a line for each record that was not right; exit code 1 where something that
    was committed could not be brought back.
    """
    names = admin.names()
    with admin.stores() as stores:
        chosen = None if name is None else find_kept_user(admin, stores, name)
        rebuilding = rebuilding_of(stores)
        outcomes = list(rebuilding.run(chosen, is_dry=is_dry))
        fault = rebuilding.find_fault()
    told = [outcome for outcome in outcomes if outcome.state is not State.RIGHT]
    show([_row(outcome, names) for outcome in told], _COLUMNS, as_json=as_json)
    rebuilt = sum(outcome.state in {State.REBUILT, State.OLDER} for outcome in told)
    done = "would be" if is_dry else "were"
    click.echo(f"{len(outcomes)} databases; {rebuilt} head records {done} made anew.", err=True)
    if fault is not None and chosen is None and not is_dry:
        raise click.ClickException(fault)
    if any(not outcome.is_exact or outcome.notes for outcome in told):
        sys.exit(1)


def rebuilding_of(stores: Stores) -> Rebuilding:
    """What makes the records of these stores anew."""
    return Rebuilding(
        stores.heads,
        stores.objects,
        stores.databases,
        HeadsMark(stores.heads, stores.objects, new_nonce),
        clock_ms=now_ms,
        in_parallel=stores.in_parallel,
    )


def find_kept_user(admin: Admin, stores: Stores, name: str) -> UserId:
    """A user by name, or by the id under which objects are kept: users of a pool have no name here."""
    found = admin.users.find(name)
    if found is not None:
        return found.id
    with contextlib.suppress(ValueError):
        check_user(UserId(name))
        if any(True for _ in stores.objects.list(user_prefix(UserId(name)))):
            return UserId(name)
    raise click.ClickException(f"there is no user {name!r}, and nothing is kept under that id")


def _row(outcome: Outcome, names: dict[UserId, str]) -> Row:
    return {
        "user": names.get(outcome.database.user, outcome.database.user),
        "database": outcome.database.kind.value,
        "state": outcome.state.value,
        "record": outcome.found_version,
        "version": outcome.version,
        "newest": outcome.newest_version,
        "note": "; ".join(outcome.notes) or None,
    }
