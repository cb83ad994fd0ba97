"""`ankisyncctl user export|purge|reset`: handing out, deleting and emptying what is kept of one user."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Final

import click

from app.auth.local.users import ListedUser
from app.cli import store
from app.cli.audit import Change, note
from app.cli.context import Admin
from app.cli.exporting import Exporter
from app.cli.output import Row, show, show_one
from app.cli.progress import shown
from app.cli.purging import KEY_LIFE_S, Plan, Purged, Purger, Remaining
from app.cli.resetting import Resetter
from app.main import build_gate, build_restorer, new_nonce, now_ms
from storage.database.maintenance.mark import STORE
from storage.errors import StorageError
from storage.heads.keys import check_user
from storage.types import DatabaseKind, UserId, run_inline

_DAY_MS: Final = 24 * 3_600_000
_REMAINING_COLUMNS = ("what", "until_ms", "note")

dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be done.")
yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command("export", cls=Change)
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--versions", is_flag=True, help="Also each earlier version of the collection, without media.")
@store.as_json
@click.pass_obj
def export(admin: Admin, name: str, folder: Path, *, versions: bool, as_json: bool) -> None:
    """Write all that is kept of the user NAME into the new FOLDER.

    collection.colpkg has the collection with its media, for File, Import in Anki; about.json has the account,
    the devices and the list of versions. Nothing is changed on the server.
    """
    found = admin.find_user(name)
    note(user=found.id)
    part = folder.with_name(f"{folder.name}.{new_nonce()}.part")
    try:
        if folder.exists():
            raise click.ClickException(f"{folder} exists already")
        part.mkdir(mode=0o700)
        with admin.stores() as stores:
            restorer = build_restorer(stores, build_gate(stores, offload=run_inline), offload=run_inline)
            exporter = Exporter(stores, admin.keys, restorer, now_ms)
            done = exporter.export(found, part, with_versions=versions)
        part.rename(folder)
    except OSError as exc:
        raise click.ClickException(f"{folder} cannot be written: {exc.strerror or exc}") from exc
    finally:
        shutil.rmtree(part, ignore_errors=True)
    show_one(
        {
            "folder": str(folder),
            "notes": done.notes,
            "media_files": done.media_files,
            "versions": done.versions,
            "lost": len(done.lost),
        },
        as_json=as_json,
    )
    if done.lost:
        names = ", ".join(map(repr, done.lost))
        raise click.ClickException(f"the content of {len(done.lost)} media files is lost or damaged: {names}")


@click.command("purge", cls=Change)
@click.argument("name")
@dry_run
@yes
@click.option("--at-once", is_flag=True, help="Do not wait; also media stored within the last day.")
@store.as_json
@click.pass_obj
def purge(  # noqa: PLR0913 - options
    admin: Admin, name: str, *, dry_run: bool, yes: bool, at_once: bool, as_json: bool
) -> None:
    """Delete the user NAME, or what is kept under that id, with keys, data, history and old versions.

    Media that other users have as well stay theirs. What was stored within the last day is left to the
    daily maintenance, since another user's upload may rely on it just now; with --at-once such an upload may
    have to be repeated, which their device does by itself. On AWS it takes a minute, until no server takes a
    key of the user any more. What must remain for a while is listed. Old versions in the bucket need rights
    of your own (terraform/README.md): without them the dry run shows none.
    """
    with admin.stores() as stores:
        versions = None
        if admin.cloud is not None and admin.settings.cloud is not None:
            versions = admin.cloud.versions()
        key_life_s = 0 if admin.cloud is None else KEY_LIFE_S
        purger = Purger(stores, admin.keys, versions, now_ms, shown, key_life_s, time.sleep)
        found = _find_user_or_id(admin, name)
        plan = purger.plan(found.id)
        if plan.is_empty and found.source != "list":
            raise click.ClickException(f"nothing is kept of {name!r}")
        note(user=found.id)
        if not as_json or dry_run:
            show_one(_plan_row(found, plan), as_json=as_json)
        if dry_run:
            return
        if not yes:
            click.confirm(f"Delete {found.name} for good?", abort=True)

        def close_account() -> None:
            if found.source == "list":
                admin.users.remove(found.name)

        done = purger.purge(plan, close_account, at_once=at_once)
        is_again = purger.find_rest(found.id)
    remaining = [*done.remaining, *_elsewhere(admin, found)]
    note(keys=done.keys, objects=done.objects, contents=done.contents, versions=done.versions)
    _show_purged(found, done, remaining, as_json=as_json)
    if is_again:
        raise click.ClickException("a sync that was running has written again: run this once more")


def _show_purged(found: ListedUser, done: Purged, remaining: list[Remaining], *, as_json: bool) -> None:
    rows: list[Row] = [
        {"what": left.what, "until_ms": left.until_ms, "note": left.note} for left in remaining
    ]
    counts: Row = {
        "id": found.id,
        "keys": done.keys,
        "objects": done.objects,
        "media_contents": done.contents,
        "old_versions": done.versions,
    }
    if as_json:
        show_one(counts | {"remaining": rows}, as_json=True)
        return
    click.echo(
        f"Deleted {done.keys} keys, {done.objects} objects, {done.contents} media contents"
        f" and {done.versions} old versions."
    )
    click.echo("What remains:")
    show(rows, _REMAINING_COLUMNS, as_json=False)


@click.command("reset", cls=Change)
@click.argument("name")
@click.option("--collection", "kind", flag_value=DatabaseKind.COLLECTION.value, help="Empty the collection.")
@click.option("--media", "kind", flag_value=DatabaseKind.MEDIA.value, help="Forget all media files.")
@dry_run
@yes
@store.as_json
@click.pass_obj
def reset(  # noqa: PLR0913 - options
    admin: Admin, name: str, kind: str | None, *, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Empty the collection of NAME, or its media, and keep the other; `history restore` undoes it.

    After a reset of the collection the first device that syncs uploads its own. After one of the media each
    device compares its files with the server at the next media sync, and uploads them. No device loses any.
    """
    if kind is None:
        raise click.UsageError("give --collection or --media")
    found = admin.find_user(name)
    note(user=found.id)
    with admin.stores() as stores:
        resetter = Resetter(stores, now_ms, new_nonce)
        stamps = resetter.find(found.id, DatabaseKind(kind)).stamps
        if not stamps:
            raise click.ClickException(f"{name} has no {kind}")
        figures = ("notes", "cards") if kind == DatabaseKind.COLLECTION else ("count", "bytes")
        row: Row = {"user": found.name, "reset": kind} | {key: int(stamps.get(key, 0)) for key in figures}
        if not yes and not dry_run:
            size = f"{row[figures[0]]} {'notes' if figures[0] == 'notes' else 'files'}"
            click.confirm(f"Forget the {kind} of {name}, {size}?", abort=True)
        if not dry_run and kind == DatabaseKind.COLLECTION:
            resetter.reset_collection(found.id)
        elif not dry_run:
            resetter.reset_media(found.id)
    show_one(row | {"done": not dry_run}, as_json=as_json)


def _find_user_or_id(admin: Admin, name: str) -> ListedUser:
    """A user by name, or one who is gone by the id that the data is kept under."""
    found = admin.users.find(name)
    if found is not None:
        return found
    try:
        check_user(UserId(name))
    except ValueError:
        raise click.ClickException(f"there is no user {name!r}") from None
    if name == STORE.user:
        raise click.ClickException(f"{name} is no user: the store keeps its own mark under it")
    return ListedUser(UserId(name), name, "removed", None, None)


def _plan_row(found: ListedUser, plan: Plan) -> Row:
    return {
        "name": found.name,
        "id": found.id,
        "account": found.source,
        "keys": len(plan.keys),
        "databases": len(plan.databases),
        "objects": plan.objects,
        "object_bytes": plan.object_bytes,
        "media_contents": len(plan.contents),
        "shared_contents": plan.shared,
        "old_versions": plan.old_versions,
    }


def _elsewhere(admin: Admin, found: ListedUser) -> list[Remaining]:
    """What this command does not reach."""
    left = []
    if found.source == "environment":
        left.append(Remaining("the SYNC_USERn of that name", None, "take it out of the environment"))
    if found.source == "cognito" and admin.settings.cognito is not None:
        pool = admin.settings.cognito.pool.pool_id
        command = f"aws cognito-idp admin-delete-user --user-pool-id {pool} --username {found.id}"
        left.append(Remaining("the account in the user pool", None, command))
    if admin.cloud is not None and admin.settings.cloud is not None:
        if admin.settings.cloud.table:
            left += _table_backups(admin)
        left.append(
            Remaining(
                "working copies on the disks of servers", None, "gone when a task ends, or needs the room"
            )
        )
    left.append(Remaining("audit and log lines with the user's id", None, "for as long as you keep logs"))
    left.append(Remaining("your own backups", None, "for as long as you keep them"))
    return left


def _table_backups(admin: Admin) -> list[Remaining]:
    assert admin.cloud is not None
    what, command = "earlier moments of the table", "point-in-time recovery of DynamoDB"
    try:
        days = admin.cloud.recovery_days()
    except StorageError:
        return [Remaining(what, now_ms() + 35 * _DAY_MS, f"if {command} is on, at most so long")]
    return [] if days is None else [Remaining(what, now_ms() + days * _DAY_MS, command)]
