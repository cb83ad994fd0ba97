"""`ankisyncctl backup`: the whole service, or some users, kept in another place, and brought back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import click
from filelock import FileLock, Timeout

from app.backup import (
    BackupLog,
    BackupMaker,
    BackupRestorer,
    Manifest,
    Refused,
    Restored,
    UserRow,
    remove_older,
)
from app.cli import store
from app.cli.audit import Change
from app.cli.context import Admin
from app.cli.output import Row, say, show
from app.cli.rebuild import find_kept_user
from app.main import Stores, build_gate, new_nonce, now_ms, open_bucket, open_databases, open_folder
from storage.database.history import History
from storage.database.maintenance.mark import HeadsMark
from storage.database.store import DatabaseStore
from storage.objects.archive import ArchiveReader, ArchiveWriter
from storage.objects.base import ObjectStore
from storage.objects.now import read_clock
from storage.types import UserId, run_inline

_COLUMNS = ("backup", "created_ms", "users", "host_keys", "of", "fault")
_BUCKET = "s3://"
_ARCHIVE = ".tar"

users_option = click.option(
    "--user", "names", multiple=True, metavar="NAME", help="Only this user; repeatable."
)
target_argument = click.argument("target")


@click.group()
def backup() -> None:
    """Backups beside the running server.

    TARGET is a folder, an archive (a name that ends in .tar) or a bucket (s3://BUCKET/PREFIX). In a folder
    or bucket a backup copies only what has changed since the one before. It holds password hashes: keep it
    as safe as the server.
    """


@backup.command("create")
@target_argument
@users_option
@click.option(
    "--keep", type=click.IntRange(min=1), help="Afterwards remove all but the last so many backups."
)
@store.as_json
@click.pass_obj
def create(admin: Admin, target: str, names: tuple[str, ...], keep: int | None, *, as_json: bool) -> None:
    """Back up everything, or some users. Exit code 1 where a user's newest version could not be read."""
    if keep is not None and target.endswith(_ARCHIVE):
        raise click.UsageError("--keep is for folders and buckets: an archive holds one backup")
    with admin.stores() as stores, ExitStack() as stack:
        if (fault := HeadsMark(stores.heads, stores.objects, new_nonce).find_fault()) is not None:
            raise click.ClickException(f"{fault}; nothing was backed up")
        users = frozenset(find_kept_user(admin, stores, name) for name in names) if names else None
        maker = BackupMaker(
            stores.heads,
            stores.objects,
            stores.databases,
            History(stores.objects, stores.limits.history_ms, now_ms),
            scratch=stores.work.path,
            clock_ms=now_ms,
            nonce=new_nonce,
        )
        if target.endswith(_ARCHIVE):
            archive = ArchiveWriter(Path(target))
            stack.callback(archive.discard)
            name, manifest = maker.make(archive, None, _Accounts(admin), admin.keys, users)
            archive.finish()
        else:
            place = stack.enter_context(_opened(admin, target, is_new=True))
            log = BackupLog(place)
            most = max((len(one.parts) for _, one in log.list() if one.is_whole), default=0)
            name, manifest = maker.make(place, log, _Accounts(admin), admin.keys, users)
            if keep is not None and manifest.is_whole and len(manifest.parts) < most / 2:
                raise click.ClickException(
                    f"{name} has {len(manifest.parts)} users, an earlier one {most}: no backup was removed"
                )
            if keep is not None:
                removed = remove_older(place, keep, read_clock(place, now_ms))
                click.echo(f"Removed {removed} objects of older backups.", err=True)
    say(f"{name}: {len(manifest.parts)} users.", _row(name, manifest), as_json=as_json)
    for fault in manifest.faults:
        click.echo(f"Error: {fault}", err=True)
    if manifest.faults:
        sys.exit(1)


@backup.command("list")
@target_argument
@store.as_json
@click.pass_obj
def list_backups(admin: Admin, target: str, *, as_json: bool) -> None:
    """The backups in TARGET, oldest first."""
    with _opened(admin, target) as place:
        rows = [_row(name, manifest) for name, manifest in BackupLog(place).list()]
    show(rows, _COLUMNS, as_json=as_json)


@backup.command("restore", cls=Change)
@target_argument
@click.option("--backup", "name", help="Which one, as `backup list` names it; the newest unless told.")
@users_option
@click.option(
    "--overwrite",
    is_flag=True,
    help="Where there is data, make the backup's version the next one: what it replaces stays in the "
    "history, and each device asks for a direction. Later media files stay.",
)
@store.as_json
@click.pass_obj
def restore(  # noqa: PLR0913 - one for each option
    admin: Admin, target: str, name: str | None, names: tuple[str, ...], *, overwrite: bool, as_json: bool
) -> None:
    """Bring a backup into the store of the settings, with its history, users and logins.

    From an empty store devices go on with an ordinary sync. Data that is there is not overwritten unless
    told. May be broken off and run again.
    """
    with admin.stores() as stores, ExitStack() as stack:
        place = stack.enter_context(_opened(admin, target))
        log = BackupLog(place)
        manifest = log.find(name)
        chosen = _chosen(admin, manifest, names)
        parts = [log.read_part(manifest.parts[user]) for user in chosen]
        restorer = BackupRestorer(
            stores.heads,
            stores.objects,
            stores.databases,
            build_gate(stores, offload=run_inline),
            scratch=stores.work.path,
            clock_ms=now_ms,
            nonce=new_nonce,
        )
        done: list[Restored] = []
        try:
            done.extend(restorer.restore(place, parts, _opener(stores, place, stack), overwrites=overwrite))
        except Refused as exc:
            raise click.ClickException(f"{exc}; --overwrite puts the backup on top") from exc
        _Accounts(admin).import_users(row for row in manifest.users if not names or row[0] in chosen)
        for record in manifest.host_keys:
            if (not names or record.user in chosen) and admin.keys.find(record.hash) is None:
                admin.keys.add(record)
    on_top = sum(restored.is_on_top for restored in done)
    say(
        f"Restored {len(parts)} users, {len(done)} databases, {on_top} of them on top of what was there.",
        {"users": len(parts), "databases": len(done), "on_top": on_top},
        as_json=as_json,
    )


class _Accounts:
    """The users' file, if users are in one."""

    def __init__(self, admin: Admin) -> None:
        self._file = admin.accounts.file

    def export_users(self) -> list[UserRow]:
        rows: list[Any] = [] if self._file is None else self._file.export_users()
        return rows

    def import_users(self, rows: Iterable[UserRow]) -> None:
        if self._file is not None:
            self._file.import_users(rows)


@contextmanager
def _opened(admin: Admin, target: str, *, is_new: bool = False) -> Iterator[Any]:
    """The object store of a target; only one backup at a time is made in a folder."""
    if target.startswith(_BUCKET):
        bucket, _, prefix = target.removeprefix(_BUCKET).partition("/")
        prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        cloud = admin.settings.cloud
        if cloud is not None and cloud.bucket == bucket and prefix.startswith(cloud.prefix):
            raise click.UsageError(f"{target} is within what the server itself keeps")
        if cloud is not None and cloud.bucket == bucket and cloud.prefix.startswith(prefix):
            raise click.UsageError(f"{target} holds what the server itself keeps")
        yield open_bucket(admin.settings, bucket, prefix, run_inline)
    elif target.endswith(_ARCHIVE):
        with closing(ArchiveReader(Path(target))) as archive:
            yield archive
    else:
        folder = Path(target)
        _check_folder(folder, admin.settings.data_root, is_new=is_new)
        objects = open_folder(folder, run_inline)
        if not is_new:
            yield objects
            return
        try:
            with FileLock(folder / "lock", timeout=0):
                yield objects
        except Timeout:
            raise click.ClickException(f"another backup is being made in {target}") from None


def _check_folder(folder: Path, data_root: Path, *, is_new: bool) -> None:
    """A backup must not mix with other files, least of all with the server's own."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "heads.sqlite" in found or folder.resolve() == data_root.resolve():
        raise click.UsageError(f"{folder} is the data folder of a server")
    if found and "objects" not in found:
        raise click.UsageError(f"{folder} has other files than those of a backup")
    if not found and not is_new:
        raise click.UsageError(f"there is no backup in {folder}")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _chosen(admin: Admin, manifest: Manifest, names: tuple[str, ...]) -> list[UserId]:
    if not names:
        return sorted(manifest.parts)
    by_name = {row[1]: UserId(row[0]) for row in manifest.users}
    found = []
    for name in names:
        listed = admin.users.find(name)
        user = by_name.get(name, listed.id if listed is not None else UserId(name))
        if user not in manifest.parts:
            raise click.ClickException(f"{name!r} is not in the backup")
        found.append(user)
    return found


def _opener(stores: Stores, place: ObjectStore, stack: ExitStack) -> Callable[[], DatabaseStore]:
    """Opens the databases of a backup when the first one is needed."""
    opened: list[DatabaseStore] = []

    def open_backup() -> DatabaseStore:
        if not opened:
            opened.append(open_databases(place, stores))
            stack.callback(opened[0].close)
        return opened[0]

    return open_backup


def _row(name: str, manifest: Manifest) -> Row:
    return {
        "backup": name,
        "created_ms": manifest.created_ms,
        "users": len(manifest.parts),
        "host_keys": len(manifest.host_keys),
        "of": "all" if manifest.is_whole else "some",
        "fault": "; ".join(manifest.faults) or None,
    }
