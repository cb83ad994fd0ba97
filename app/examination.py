"""Examines databases for `ankisyncctl doctor`: objects, contents, media, and whether stamps are right.

It repairs nothing: that is left to the operator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import apsw
import msgspec

from storage.collection.stamps import read_stamps
from storage.database.store import DatabaseStore
from storage.errors import Corrupt
from storage.media.blobs import Blobs
from storage.media.index import FileRow, MediaIndex
from storage.types import DatabaseId, DatabaseKind, Head, Offload


class Finding(msgspec.Struct, frozen=True):
    """One database, and its faults."""

    database: DatabaseId
    version: int
    stored_bytes: int
    faults: tuple[str, ...]


class Examination:
    """Examines one database at a time; workers may run at the same time."""

    def __init__(self, databases: DatabaseStore, blobs: Blobs, offload: Offload[Any]) -> None:
        self._databases, self._blobs, self._offload = databases, blobs, offload

    def examine(self, database: DatabaseId, *, read_media: bool = False) -> Finding:
        """Examine one database; with `read_media` also read and hash every media file."""
        diagnosis = self._databases.doctor(database)
        faults = list(diagnosis.faults)
        if diagnosis.version and not faults:
            faults += self._look_inside(database, read_media=read_media)
        return Finding(database, diagnosis.version, diagnosis.stored_bytes, tuple(faults))

    def _look_inside(self, database: DatabaseId, *, read_media: bool) -> list[str]:
        head = self._databases.head(database)
        checkout = self._databases.checkout(database, head)
        try:
            if database.kind is DatabaseKind.COLLECTION:
                faults: list[str] = self._offload(lambda: _collection_faults(checkout.connection, head))
                return faults
            return list(self._media_faults(MediaIndex(checkout.connection), head, read_media=read_media))
        finally:
            self._databases.discard(checkout)

    def _media_faults(self, index: MediaIndex, head: Head, *, read_media: bool) -> Iterator[str]:
        counted = index.recount()
        if counted["usn"] > head.stamps["usn"]:
            yield f"usn: {head.stamps['usn']} is carried along, a row has {counted['usn']}"
        yield from _differences(head.stamps, {name: counted[name] for name in ("count", "bytes")})
        for name, row in _rows_of(index):
            if fault := self._blob_fault(row, read_all=read_media):
                yield f"media file {name!r}: {fault}"

    def _blob_fault(self, row: FileRow, *, read_all: bool) -> str | None:
        pieces = self._blobs.find_stream(row)
        if pieces is None:
            return "its content is lost"
        if not read_all:
            return None
        digest = hashlib.sha256()
        try:
            for piece in pieces:
                digest.update(piece)
        except Corrupt as exc:
            return str(exc)
        return None if digest.digest() == row.sha256 else "its content is not what was uploaded"


def _collection_faults(connection: apsw.Connection, head: Head) -> list[str]:
    counted = read_stamps(connection)
    # "unsynced" may be True without such a row, until a sync searches for one. Only a wrong False is a fault.
    if head.stamps["unsynced"]:
        del counted["unsynced"]
    # "newest" may be too high, if a row was overwritten since. Only one that is too low hides rows.
    if head.stamps.get("newest", counted["newest"]) >= counted["newest"]:
        del counted["newest"]
    return list(_differences(head.stamps, counted))


def _differences(carried: Mapping[str, int | bool], counted: Mapping[str, int | bool]) -> Iterator[str]:
    for name, value in counted.items():
        if carried.get(name) != value:
            yield f"{name}: {carried.get(name)} is carried along, counted {value}"


def _rows_of(index: MediaIndex) -> Iterator[tuple[str, FileRow]]:
    last_usn = 0
    while page := index.changes_since(last_usn):
        last_usn = page[-1][1]
        names = [name for name, _, sha1 in page if sha1]
        yield from ((row.name, row) for row in index.find_many(names) if row is not None)
