"""`ankisyncctl session`: the syncs that are running, and how to end one."""

from __future__ import annotations

from typing import Final

import click

from app.cli.audit import Change
from app.cli.context import Admin
from app.cli.output import Row, say, show
from app.cli.store import as_json
from app.main import Stores
from app.sync.journal import step_and_device
from storage.database.maintenance.mark import list_databases
from storage.types import DatabaseId, DatabaseKind, Session, UserId

_COLUMNS: Final = ("user", "id", "started_ms", "last_ms", "step", "messages", "bytes", "key", "client")


@click.group()
def session() -> None:
    """Syncs that are running, or have been begun and are waiting for their device."""


@session.command("list")
@as_json
@click.pass_obj
def list_sessions(admin: Admin, *, as_json: bool) -> None:
    """The running syncs of all users, with device and step, the oldest first.

    One that was last heard of long ago is of a device that went away. It blocks no others: the next sync of
    its user takes its place.
    """
    with admin.stores() as stores:
        found = list(_running(stores))
    names = admin.names() if found else {}
    rows = [session_row(admin, user, names.get(user, user), running) for user, running in found]
    show(sorted(rows, key=lambda row: int(row["started_ms"] or 0)), _COLUMNS, as_json=as_json)


@session.command("end", cls=Change)
@click.argument("name")
@as_json
@click.pass_obj
def end_session(admin: Admin, name: str, *, as_json: bool) -> None:
    """End the running sync of the user NAME; nothing of it is stored.

    Its device is told that another one is syncing, and starts again at its next sync.
    """
    user = admin.find_user(name)
    database = DatabaseId(user.id, DatabaseKind.COLLECTION)
    with admin.stores() as stores:
        running = stores.databases.head(database).session
        if running is None or not stores.databases.sessions.close(database, running):
            raise click.ClickException(f"no sync of {user.name} is running")
    say(f"Ended the sync of {user.name}.", {"name": user.name, "id": user.id}, as_json=as_json)


def session_row(admin: Admin, user: UserId, name: str, running: Session) -> Row:
    """What is told of a running sync."""
    step, key = step_and_device(running)
    clients = {record.id: record.client for record in admin.keys.list(user)} if key else {}
    return {
        "user": name,
        "id": user,
        "started_ms": running.started_ms,
        "last_ms": max([running.started_ms, *(entry.now_ms for entry in running.journal)]),
        "step": step,
        "messages": running.seq,
        "bytes": sum(entry.size_bytes for entry in running.journal),
        "key": key or None,
        "client": clients.get(key) or None,
    }


def _running(stores: Stores) -> list[tuple[UserId, Session]]:
    databases = [one for one in list_databases(stores.heads) if one.kind is DatabaseKind.COLLECTION]
    heads = stores.in_parallel(stores.databases.head, databases)
    pairs = zip(databases, heads, strict=True)
    return [(database.user, head.session) for database, head in pairs if head.session is not None]
