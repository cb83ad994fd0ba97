"""`ankisyncctl history`: what earlier versions there are, and how to get one back."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from app.cli import store
from app.cli.audit import Change
from app.cli.context import Admin
from app.cli.output import Row, say, show
from app.history import Restorer, RestoreRefused
from app.main import build_gate, build_restorer, new_nonce
from storage.database.history import RestorePoint, find_restore_point
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline

_COLUMNS = ("version", "committed_ms", "file_bytes", "stored_bytes", "state")

kind_argument = click.argument(
    "kind", default=DatabaseKind.COLLECTION.value, type=click.Choice([kind.value for kind in DatabaseKind])
)


@click.group()
def history() -> None:
    """Earlier versions of collections and media: everything of the last 30 days."""


@history.command("list")
@click.argument("name")
@kind_argument
@store.as_json
@click.pass_obj
def list_versions(admin: Admin, name: str, kind: str, *, as_json: bool) -> None:
    """The versions of the user NAME that can be brought back, oldest first."""
    database = DatabaseId(admin.find_user(name).id, DatabaseKind(kind))
    with restorer_of(admin) as restorer:
        points = restorer.list_restore_points(database)
    show([_row(point, points[-1].version) for point in points], _COLUMNS, as_json=as_json)
    if gaps := _gaps([point.version for point in points]):
        click.echo(
            f"Not kept any more: {', '.join(gaps)}. They were thinned for the quota, or are too old.",
            err=True,
        )


@history.command("export")
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1))
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.pass_obj
def export(admin: Admin, name: str, version: int, file: str) -> None:
    """Write the collection of NAME at VERSION to FILE, to look at it; nothing is changed.

    A FILE that ends in .colpkg is a package for File, Import in Anki, without media. Any other is
    the bare database: Anki opens it as the collection.anki2 of a profile. `-` is standard output.
    """
    user = admin.find_user(name).id
    with (
        restorer_of(admin) as restorer,
        _new_file(file) as target,
        restorer.exported(user, version, file) as path,
        path.open("rb") as source,
    ):
        shutil.copyfileobj(source, target, 1 << 20)


@history.command("restore", cls=Change)
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1))
@kind_argument
@click.option("--exact", is_flag=True, help="Of media: also remove the files that came later.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store.as_json
@click.pass_obj
def restore(  # noqa: PLR0913 - options
    admin: Admin, name: str, version: int, kind: str, *, exact: bool, yes: bool, as_json: bool
) -> None:
    """Make VERSION of NAME's collection, or of its media, the newest one.

    What it replaces stays in the history. After a collection, each device asks for a direction at
    its next sync: download. Media comes back by itself.
    """
    database = DatabaseId(admin.find_user(name).id, DatabaseKind(kind))
    if exact and database.kind is DatabaseKind.COLLECTION:
        raise click.UsageError("--exact is for media")
    with restorer_of(admin) as restorer:
        point = find_restore_point(restorer.list_restore_points(database), version)
        if not yes:
            moment = datetime.fromtimestamp(point.time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
            also = " and delete on all devices what came later" if exact else ""
            click.confirm(f"Bring back the {kind} of {name} as of {moment} UTC{also}?", abort=True)
        try:
            if database.kind is DatabaseKind.COLLECTION:
                _restore_collection(restorer, database.user, version, as_json=as_json)
            else:
                _restore_media(restorer, database.user, version, exact=exact, as_json=as_json)
        except RestoreRefused as exc:
            raise click.ClickException(str(exc)) from exc


def _restore_collection(restorer: Restorer, user: UserId, version: int, *, as_json: bool) -> None:
    head = restorer.restore_collection(user, version)
    notes, cards = head.stamps["notes"], head.stamps["cards"]
    say(
        f"Version {head.version} is now what version {version} was: {notes} notes, "
        f"{cards} cards. Choose download on each device when it next syncs.",
        {"version": head.version, "restored": version, "notes": notes, "cards": cards},
        as_json=as_json,
    )
    if not head.stamps["cards"]:
        click.echo("It has no cards: devices that have some will only offer to upload theirs.", err=True)


def _restore_media(restorer: Restorer, user: UserId, version: int, *, exact: bool, as_json: bool) -> None:
    done = restorer.restore_media(user, version, exact=exact)
    said = f"{done.back} media files are back, {done.removed} removed; devices follow when they sync."
    say(said, msgspec.structs.asdict(done), as_json=as_json)
    if done.lost:
        raise click.ClickException(
            f"the content of {len(done.lost)} files is not kept any more: " + ", ".join(map(repr, done.lost))
        )


@contextmanager
def restorer_of(admin: Admin) -> Iterator[Restorer]:
    """What brings versions back, with the stores open."""
    with admin.stores() as stores:
        yield build_restorer(stores, build_gate(stores, offload=run_inline), offload=run_inline)


@contextmanager
def _new_file(name: str) -> Iterator[BinaryIO]:
    """A file that is there whole or not at all, and takes nothing's place; or standard output."""
    if name == "-":
        yield sys.stdout.buffer
        return
    path = Path(name)
    part = path.with_name(f"{path.name}.{new_nonce()}.part")
    try:
        if path.exists():
            raise FileExistsError(f"{name} exists already")
        with open(part, "xb", opener=_private) as file:
            yield file
        part.rename(path)
    except OSError as exc:
        raise click.ClickException(f"{name} cannot be written: {exc.strerror or exc}") from exc
    finally:
        part.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _gaps(versions: list[int]) -> list[str]:
    """The versions between the first and the last that are not there."""
    pairs = [(a + 1, b - 1) for a, b in itertools.pairwise(versions) if b > a + 1]
    return [str(first) if first == last else f"{first}-{last}" for first, last in pairs]


def _row(point: RestorePoint, current: int) -> Row:
    entry = point.chain[-1]
    return {
        "version": point.version,
        "committed_ms": point.time_ms,
        "file_bytes": entry.page_size * entry.page_count,
        "stored_bytes": entry.size_bytes,
        "state": "current" if point.version == current else "kept",
    }
