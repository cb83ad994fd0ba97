"""`ankisyncctl media rebuild`: reads every media file of a user and drops what is not what was uploaded."""

from __future__ import annotations

import click
import msgspec

from app.cli import store
from app.cli.audit import Change, note
from app.cli.context import Admin
from app.cli.output import Row, show
from app.cli.people import dry_run, yes
from app.cli.progress import shown
from app.main import Stores, build_gate, now_ms
from app.media.unzip import fault_of_name
from storage.errors import Corrupt
from storage.media.blobs import Blobs, Digester
from storage.media.index import FileFacts, FileRow, MediaIndex
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline

_COLUMNS = ("name", "fault")


class Bad(msgspec.Struct, frozen=True):
    """A file that has to go, and why."""

    row: FileRow
    fault: str
    is_rotten: bool
    """The stored content is at fault, for all who have it, and not this row alone."""


@click.group()
def media() -> None:
    """Media files of users."""


@media.command("rebuild", cls=Change)
@click.argument("name")
@dry_run
@yes
@store.as_json
@click.pass_obj
def rebuild(admin: Admin, name: str, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Read every media file of NAME, drop what is lost, damaged or misnamed, and count anew.

    No device loses a file. As the counts then differ from those of the devices, each compares its files
    with the server at its next media sync, and uploads what is missing here.
    """
    found = admin.find_user(name)
    note(user=found.id)
    with admin.stores() as stores:
        bad = find_bad(stores, found.id)
        rows: list[Row] = [{"name": file.row.name, "fault": file.fault} for file in bad]
        show(rows, _COLUMNS, as_json=as_json)
        if dry_run:
            click.echo(f"{len(bad)} files would be dropped.", err=True)
            return
        if bad and not yes:
            click.confirm(f"Drop {len(bad)} media files of {name}?", abort=True, err=True)
        counts_changed = drop(stores, found.id, bad)
    note(dropped=len(bad))
    mended = " The counts were wrong, and are right now." if counts_changed and not bad else ""
    click.echo(f"{len(bad)} files dropped.{mended}", err=True)


def find_bad(stores: Stores, user: UserId) -> list[Bad]:
    """The files of a user that cannot be given to a device as they are; each content is read once."""
    nothing: list[tuple[str, FileFacts]] = []
    gate = build_gate(stores, offload=run_inline)
    rows = gate.read(user, lambda index: list(index.list_files()), otherwise=nothing)
    read: dict[bytes, FileFacts | str] = {}
    bad = []
    for name, facts in shown(rows, len(rows), "Reading media"):
        if facts.sha256 not in read:
            read[facts.sha256] = _read(stores.blobs, name, facts)
        found = read[facts.sha256]
        fault = fault_of_name(name)
        if isinstance(found, str):
            fault = found
        elif found != facts:
            fault = "the index tells another size or checksum than the content has"
        if fault:
            row = FileRow(name, facts.sha256, facts.crc32, facts.size_bytes)
            bad.append(Bad(row, fault, isinstance(found, str)))
    return bad


def drop(stores: Stores, user: UserId, bad: list[Bad]) -> bool:
    """Forget bad files without a tombstone, and set the counts by a scan; whether anything was changed."""
    for file in bad:
        if file.is_rotten:  # the content itself, which is found and removed once for all who have it
            stores.blobs.is_sound(file.row)
    carried = stores.databases.head(DatabaseId(user, DatabaseKind.MEDIA)).stamps

    def change(index: MediaIndex) -> bool:
        is_dropped = index.drop_rows([file.row for file in bad])
        is_counted = index.count_anew()
        if not (is_dropped or is_counted or index.stamps() != carried):
            return False
        index.ask_to_compare(now_ms() // 1000)
        return True

    return build_gate(stores, offload=run_inline).change(user, change).is_committed


def _read(blobs: Blobs, name: str, facts: FileFacts) -> FileFacts | str:
    """What the stored content is, or what is wrong with it."""
    pieces = blobs.find_stream(FileRow(name, facts.sha256, facts.crc32, facts.size_bytes))
    if pieces is None:
        return "its content is lost"
    digester = Digester()
    try:
        for piece in pieces:
            digester.update(piece)
    except Corrupt:  # more or fewer bytes than the index tells
        return "its content is not what was uploaded"
    found = digester.facts()
    return found if found.sha256 == facts.sha256 else "its content is not what was uploaded"
