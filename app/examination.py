"""Examines what is stored: objects, databases, and whether what is carried along agrees with a real count.

Refuses to repair: what to do about a fault is a person's decision.
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
    """One database, and what is wrong with it."""

    database: DatabaseId
    version: int
    stored_bytes: int
    faults: tuple[str, ...]


class Examination:
    """Examines one database at a time, beside running workers."""

    def __init__(self, databases: DatabaseStore, blobs: Blobs, offload: Offload[Any]) -> None:
        self._databases, self._blobs, self._offload = databases, blobs, offload

    def examine(self, database: DatabaseId, *, read_media: bool = False) -> Finding:
        """Everything about one database; `read_media` also reads every media file and hashes it."""
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
    # True is carried along until somebody looks; only the other way round hides a row.
    if head.stamps["unsynced"]:
        del counted["unsynced"]
    # The highest USN is an upper bound: a row may have been overwritten since. A lower one would hide rows.
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
