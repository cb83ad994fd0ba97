"""Commands about what is kept: status, doctor, maintain, and deleting a user's data."""

from __future__ import annotations

import sys
from typing import Any, Final

import click
import msgspec

from app.cli.audit import Change
from app.cli.context import Admin
from app.cli.output import Row, say, show
from app.cli.progress import shown
from app.examination import Examination, Finding
from app.main import Stores, build_deletions, new_nonce
from app.maintenance import EVERYTHING, Shard, Summary
from app.restorecheck import lines_of, read_verified
from app.sync.journal import step_and_device
from storage.database.format.keys import prefix
from storage.database.maintenance.lost import Lost, list_lost
from storage.database.maintenance.mark import STORE, HeadsMark, list_databases
from storage.types import DatabaseId, DatabaseKind, Session, UserId, run_inline

_MOST_SHARDS: Final = 1000
_STATUS_COLUMNS = (
    "name", "id", "notes", "cards", "media_files", "media_bytes", "stored_bytes",
    "changed_ms", "syncing_since_ms", "syncing_step", "syncing_client",
)  # fmt: skip
_DOCTOR_COLUMNS = ("user", "database", "version", "stored_bytes", "fault")

as_json = click.option("--json", "as_json", is_flag=True, help="As JSON; times in milliseconds.")


@click.command()
@click.argument("name", required=False)
@as_json
@click.pass_obj
def status(admin: Admin, name: str | None, *, as_json: bool) -> None:
    """Who keeps how much, when it last changed, and who is syncing: the user NAME, or all."""
    chosen = admin.find_user(name) if name else None
    names = {chosen.id: chosen.name} if chosen else admin.names()
    with admin.stores() as stores:
        kept = set() if chosen else {database.user for database in list_databases(stores.heads)}
        users = names | dict.fromkeys(kept)
        rows = list(
            stores.in_parallel(lambda user: _status_row(admin, stores, user, names.get(user, "-")), users)
        )
        verified = read_verified(stores.objects, new_nonce)
    if not as_json:
        click.echo(f"Kept in {admin.settings.place}", err=True)
        for line in lines_of(verified):
            click.echo(line, err=True)
    show(sorted(rows, key=lambda row: str(row["name"])), _STATUS_COLUMNS, as_json=as_json)


@click.command()
@click.argument("name", required=False)
@click.option("--read-media", is_flag=True, help="Also read every media file and compare its hash.")
@as_json
@click.pass_obj
def doctor(admin: Admin, name: str | None, *, read_media: bool, as_json: bool) -> None:
    """Examine everything stored of the user NAME, or of all; exit code 1 where something is wrong."""
    names = admin.names()
    chosen = admin.find_user(name).id if name else None
    with admin.stores() as stores:
        examination = Examination(stores.databases, stores.blobs, run_inline)
        databases = list(list_databases(stores.heads, chosen))
        findings = [
            examination.examine(database, read_media=read_media)
            for database in shown(databases, len(databases), "Examining")
        ]
        fault = HeadsMark(stores.heads, stores.objects, new_nonce).find_fault()
        findings += _lost(stores, chosen, suspects_all=fault is not None)
    rows = [row for finding in findings for row in _finding_rows(finding, names)]
    show(rows, _DOCTOR_COLUMNS, as_json=as_json)
    if fault is not None:
        click.echo(f"Error: {fault}", err=True)
    if fault is not None or any(finding.faults for finding in findings):
        sys.exit(1)


class _ShardType(click.ParamType[Shard]):
    """I/N, with I from 1 to N."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        """The shard that `value` tells."""
        if isinstance(value, Shard):
            return value
        number, _, count = str(value).partition("/")
        if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= _MOST_SHARDS:
            return Shard(int(number), int(count))
        raise click.BadParameter(f"{value!r} is not like 2/8", ctx, param)


@click.command(cls=Change)
@click.option("--full", "is_full", is_flag=True, help="Take all databases, also those that have not changed.")
@click.option("--shard", type=_ShardType(), default=EVERYTHING, help="Take the I-th of N parts of the users.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Take the head records as they are, although objects tell that some are lost or older; "
    "what only those named is then deleted. Takes all databases.",
)
@as_json
@click.pass_obj
def maintain(admin: Admin, *, is_full: bool, shard: Shard, accept_loss: bool, as_json: bool) -> None:
    """Compact what has grown long and delete what nothing needs; the server does so once a day.

    Takes the databases that have changed since the last run, and all of them once a week. May be broken off:
    the next run goes on. With --shard, run it for each part, at the same time if you like.
    """
    with admin.stores() as stores:
        if shard.number == 1:
            build_deletions(admin.accounts, stores).carry_out()
        summary = stores.maintenance.run(is_full=is_full, shard=shard, accept_loss=accept_loss)
    say(_in_words(summary), msgspec.structs.asdict(summary), as_json=as_json)
    faults = summary.refused + summary.unsound
    if summary.failed:
        faults.append(f"{summary.failed} databases could not be done; see doctor")
    if faults:
        raise click.ClickException("\n".join(faults))


def _in_words(summary: Summary) -> str:
    return (
        f"{summary.databases} databases, {summary.compacted} compacted; "
        f"deleted {summary.deleted} objects of {summary.deleted_bytes} bytes; "
        f"{summary.verified} users restored and compared."
    )


@click.command("erase", cls=Change)
@click.argument("user_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@click.pass_obj
def erase(admin: Admin, user_id: str, *, yes: bool, as_json: bool) -> None:
    """Delete the data that a removed user left under USER_ID, with its whole history."""
    user = UserId(user_id)
    if user == STORE.user:
        raise click.ClickException(f"{user_id} is no user: the store keeps its own mark under it")
    if user in admin.names():
        raise click.ClickException(f"{user_id} is the user {admin.names()[user]!r}: remove it first")
    with admin.stores() as stores:
        # Also what a deletion that was broken off has left: objects without a head record.
        has_objects = any(
            any(True for _ in stores.objects.list(prefix(DatabaseId(user, kind)))) for kind in DatabaseKind
        )
        if not has_objects and not list(stores.heads.list(user)):
            raise click.ClickException(f"nothing is kept under the id {user_id!r}")
        if not yes:
            click.confirm(f"Delete all data of {user_id} for good?", abort=True)
        erase_data(stores, user)
    say(f"Deleted the data of {user_id}.", {"id": user_id}, as_json=as_json)


def erase_data(stores: Stores, user: UserId) -> None:
    """Forget both databases of a user; the media contents go with the next `maintain`."""
    for kind in DatabaseKind:
        stores.databases.erase(DatabaseId(user, kind))


def _lost(stores: Stores, chosen: UserId | None, *, suspects_all: bool) -> list[Finding]:
    """Databases that have objects but no head record; what may be of a failed upload if all is suspect."""
    return [
        Finding(lost.database, 0, 0, (_what_is_lost(lost),))
        for lost in list_lost(stores.heads, stores.objects)
        if not lost.has_record
        and chosen in {None, lost.database.user}
        and (suspects_all or lost.evidence.is_proof)
    ]


def _what_is_lost(lost: Lost) -> str:
    also = "" if lost.evidence.is_proof else ", or an upload failed"
    return f"the head record is lost{also}: {lost.evidence.text}"


def _status_row(admin: Admin, stores: Stores, user: UserId, name: str) -> Row:
    collection, media = stores.databases.sessions.heads(
        [DatabaseId(user, DatabaseKind.COLLECTION), DatabaseId(user, DatabaseKind.MEDIA)]
    )
    entries = (*collection.chain, *media.chain)
    return {
        "name": name,
        "id": user,
        "notes": collection.stamps.get("notes", 0),
        "cards": collection.stamps.get("cards", 0),
        "media_files": media.stamps.get("count", 0),
        "media_bytes": media.stamps.get("bytes", 0),
        "stored_bytes": sum(entry.size_bytes for entry in entries),
        "changed_ms": max((entry.time_ms for entry in entries), default=None),
        **_syncing(admin, user, collection.session),
    }


def _syncing(admin: Admin, user: UserId, session: Session | None) -> Row:
    step, key = step_and_device(session) if session else (None, "")
    clients = {record.id: record.client for record in admin.keys.list(user)} if key else {}
    return {
        "syncing_since_ms": session.started_ms if session else None,
        "syncing_step": step,
        "syncing_client": clients.get(key) or None,
    }


def _finding_rows(finding: Finding, names: dict[UserId, str]) -> list[Row]:
    return [
        {
            "user": names.get(finding.database.user, finding.database.user),
            "database": finding.database.kind.value,
            "version": finding.version,
            "stored_bytes": finding.stored_bytes,
            "fault": fault,
        }
        for fault in finding.faults or (None,)
    ]
