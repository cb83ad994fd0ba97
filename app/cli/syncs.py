"""`ankisyncctl syncs` and `session`: what became of a user's syncs, and those that are running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import click

from app.cli.context import Admin
from app.cli.output import Row, show
from app.cli.store import as_json
from app.main import Stores
from storage.database.failures import Failure, list_failures
from storage.database.history import RestorePoint
from storage.database.origin import Kind, read_origin
from storage.types import DatabaseId, DatabaseKind, UserId

_COLUMNS: Final = ("time_ms", "database", "step", "outcome", "key", "client", "why")

_DONE: Final = {
    Kind.SYNC: ("finish", "synced"),
    Kind.UPLOAD: ("upload", "uploaded one way"),
    Kind.DOWNLOAD: ("download", "downloaded one way"),
    Kind.MEDIA: ("uploadChanges", "media sent"),
    Kind.RESTORE: ("-", "an earlier version restored"),
    Kind.PAGE: ("-", "uploaded on the user's page"),
    Kind.OPERATOR: ("-", "brought in by an operator"),
}

_WHY: Final = {
    "Conflict": "other requests changed the same data at the same time",
    "Corrupt": "stored data is damaged; see ankisyncctl doctor",
    "FileMissing": "a media file was asked for that is not there",
    "HeadMoved": "other requests changed the same data at the same time",
    "InvalidDatabase": "the file that the device sent is no sound collection",
    "NotApplicable": "the device sent rows that do not fit the collection here, and shows that",
    "NotDurable": "the disk of the server has lost a write",
    "PayloadTooLarge": "the request is larger than the server takes",
    "ProtocolError": "the request could not be read",
    "ServiceUnavailable": "a service that the server needs did not answer",
    "SessionConflict": "another device began to sync meanwhile, or the sync had ended",
    "SessionLost": "another device began to sync meanwhile, or the sync had ended",
    "TooLarge": "the request is larger than the server takes",
    "Unavailable": "a store did not answer",
    "UnsupportedVersion": "the program on the device is too old or too new",
}
"""By the name of the error, which then gives the details."""

_OURS: Final = "an error of the server; the log has the traceback"
_SERVER_ERROR: Final = 500


class _Devices(NamedTuple):
    """What the devices of one user say of themselves, by the id of their host key."""

    clients: dict[str, str]

    def client(self, key: str) -> str | None:
        """None if the key is not kept any more."""
        return self.clients.get(key) or None


@click.command()
@click.argument("name")
@click.option("--failed", "only_failed", is_flag=True, help="Only those that failed.")
@as_json
@click.pass_obj
def syncs(admin: Admin, name: str, *, only_failed: bool, as_json: bool) -> None:
    """What became of the syncs of the user NAME in the last 30 days, and why, oldest first.

    A sync that had nothing to do leaves no trace. What a device did before it logged out and in again
    is shown under the id of its former key.
    """
    user = admin.find_user(name).id
    devices = _Devices({record.id: record.client for record in admin.keys.list(user)})
    with admin.stores() as stores:
        rows = list(_rows(stores, user, devices, only_failed=only_failed))
    rows.sort(key=lambda row: int(row["time_ms"] or 0))
    show(rows, _COLUMNS, as_json=as_json)


def _rows(stores: Stores, user: UserId, devices: _Devices, *, only_failed: bool) -> Iterator[Row]:
    for kind in DatabaseKind:
        database = DatabaseId(user, kind)
        for failure in list_failures(stores.objects, database):
            yield _failed(kind, failure, devices)
        if not only_failed:
            for point in stores.databases.history(database):
                yield _done(kind, point, devices)


def _done(kind: DatabaseKind, point: RestorePoint, devices: _Devices) -> Row:
    entry = point.chain[-1]
    origin = read_origin(entry.commit_ids[-1]) if entry.commit_ids else None
    step, outcome = ("-", "committed") if origin is None else _DONE[origin.kind]
    key = origin.device if origin else ""
    return {
        "time_ms": point.time_ms,
        "database": kind.value,
        "step": step,
        "outcome": outcome,
        "key": key or None,
        "client": devices.client(key),
        "why": None,
    }


def _failed(kind: DatabaseKind, failure: Failure, devices: _Devices) -> Row:
    return {
        "time_ms": failure.time_ms,
        "database": kind.value,
        "step": failure.method,
        "outcome": f"failed ({failure.status})",
        "key": failure.device or None,
        "client": failure.client or devices.client(failure.device),
        "why": _why(failure),
    }


def _why(failure: Failure) -> str:
    general = _WHY.get(failure.error)
    if general is None and failure.status >= _SERVER_ERROR:
        general = _OURS
    return ": ".join(filter(None, (general, failure.text))) or failure.error
