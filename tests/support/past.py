"""A user with a past: collections and media in several versions, and what each version holds."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

from anki.collection import Collection

from app.main import Stores, new_nonce, now_ms
from app.media.gate import IndexGate, Waiting
from storage.database.history import find_restore_point
from storage.media.blobs import Digester, NewBlob
from storage.media.index import MediaIndex
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline


def make_collection(path: Path, words: list[str]) -> Path:
    """A collection with a note for each word, as clients upload it."""
    col = Collection(str(path))
    for word in words:
        note = col.new_note(col.models.by_name("Basic"))
        note.fields = [word, "answer"]
        col.add_note(note, 1)
    for table in ("notes", "cards"):
        col.db.execute(f"update {table} set usn = 0")
    col.close()
    return path


def change_media(stores: Stores, user: UserId, scratch: Path, changes: Mapping[str, bytes | None]) -> None:
    """One version more: files with their contents, None for one that is removed."""
    rows = []
    for name, content in changes.items():
        digester = Digester()
        digester.update(content or b"")
        if content:
            stores.blobs.put_new([NewBlob(hashlib.sha256(content).digest(), content)])
        rows.append((name, digester.facts() if content else None))
    gate = IndexGate(
        stores.databases,
        locks=stores.locks,
        offload=run_inline,
        clock_ms=now_ms,
        nonce=new_nonce,
        scratch=scratch,
        waiting=Waiting(time.sleep, time.monotonic),
    )
    gate.change(user, lambda index: index.apply(rows, now_ms() // 1000))


def content_of(stores: Stores, database: DatabaseId, version: int | None = None) -> set[str]:
    """First fields of all notes, or names of all files; of the newest version unless told."""
    points = stores.databases.history(database)
    point = points[-1] if version is None else find_restore_point(points, version)
    checkout = stores.databases.checkout_restore_point(database, point)
    try:
        if database.kind is DatabaseKind.MEDIA:
            return {name for name, _ in MediaIndex(checkout.connection).list_files()}
        return {row[0] for row in checkout.connection.execute("SELECT sfld FROM notes")}
    finally:
        stores.databases.discard(checkout)
