"""Brings versions of the history back: into a file, or as the newest version of a user's database.

What is replaced stays in the history and can be brought back the same way. `ankisyncctl history` and the
user's own pages call it.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from app.media.gate import IndexGate
from storage.collection.oneway import force_one_way
from storage.collection.package import write_package
from storage.collection.stamps import Stamps
from storage.collection.tables.decks import read_decks
from storage.database.history import RestorePoint, find_restore_point
from storage.database.origin import Kind, Origin, name_commit
from storage.database.store import Checkout, Commit, DatabaseStore
from storage.errors import Conflict, Unavailable
from storage.media.blobs import Blobs
from storage.media.index import FileFacts, FileRow, MediaIndex
from storage.types import DatabaseId, DatabaseKind, Head, Offload, UserId

PACKAGE = ".colpkg"
"""Files with this ending are written as packages, all others as plain SQLite."""

_TRIES = 5
"""Each conflict means that somebody has begun or finished a sync in between."""

T = TypeVar("T")


class RestoreRefused(Exception):
    """It cannot be brought back; the text says why."""


class MediaRestored(msgspec.Struct, frozen=True):
    """What became of a user's media."""

    back: int
    """Files that are there again, or have their earlier content again."""
    removed: int
    lost: tuple[str, ...]
    """Names whose content has been swept: they stay as they are."""


@dataclass(frozen=True, slots=True)
class Restorer:
    """Works beside running servers; each restore is one commit, whole or not begun.

    `scratch` is a folder for temporary files, `history_ms` how long contents are surely kept.
    """

    databases: DatabaseStore
    blobs: Blobs
    gate: IndexGate
    scratch: Path
    history_ms: int
    offload: Offload[Any]
    clock_ms: Callable[[], int]
    nonce: Callable[[], str]

    def list_restore_points(self, database: DatabaseId) -> list[RestorePoint]:
        """Every version that can be brought back, oldest first, the current one last."""
        return self.databases.history(database)

    @contextmanager
    def exported(self, user: UserId, version: int, name: str) -> Iterator[Path]:
        """The collection of a version as a file, in the form that `name` asks for; gone after the block.

        Raises: NotFound.
        """
        database = DatabaseId(user, DatabaseKind.COLLECTION)
        point = find_restore_point(self.list_restore_points(database), version)
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="export-") as folder:
            path = Path(folder, "collection.anki2")
            self.databases.export(database, point, path)
            if name.lower().endswith(PACKAGE):
                package = Path(folder, "collection.colpkg")
                self.offload(lambda: write_package(path, package))
                yield package
            else:
                yield path

    def list_decks(self, user: UserId, version: int) -> list[tuple[str, int]]:
        """Each deck of a version of the collection and how many cards it has, by name. Raises: NotFound."""
        database = DatabaseId(user, DatabaseKind.COLLECTION)
        point = find_restore_point(self.list_restore_points(database), version)
        checkout = self.databases.checkout_restore_point(database, point)
        try:
            decks: list[tuple[str, int]] = self.offload(lambda: read_decks(checkout.connection))
            return decks
        finally:
            self.databases.discard(checkout)

    def restore_collection(self, user: UserId, version: int) -> Head:
        """Make a version of the collection the newest; the head then.

        A sync that runs meanwhile is over and its client starts again. All devices have to choose a
        direction. Raises: NotFound, RestoreRefused, Unavailable.
        """
        database = DatabaseId(user, DatabaseKind.COLLECTION)
        return insist(lambda: self._restore_collection(database, version))

    def _restore_collection(self, database: DatabaseId, version: int) -> Head:
        head = self.databases.head(database)
        now_ms = self.clock_ms()
        with self._checked_out(database, head, version) as checkout:
            stamps = self.offload(lambda: _dated(checkout, head, now_ms))
            commit = Commit(name_commit(Kind.RESTORE, self.nonce()), b"", now_ms, stamps, None)
            return self.databases.restore(checkout, head, commit)

    def restore_media(self, user: UserId, version: int, *, exact: bool) -> MediaRestored:
        """Give all names of a version of the media the content that they had then.

        Files that came later stay, unless it is to be `exact`. Every change has a USN of its own,
        so devices take part by an ordinary media sync. Raises: NotFound, RestoreRefused, Conflict.
        """
        database = DatabaseId(user, DatabaseKind.MEDIA)
        head = self.databases.head(database)
        with self._checked_out(database, head, version) as checkout:
            older = MediaIndex(checkout.connection)
            nothing: list[FileRow] = []
            at_risk = self.gate.read(user, partial(self._find_at_risk, older), otherwise=nothing)
            lost = self._renew(at_risk)
            done = MediaRestored(0, 0, ())

            def change(index: MediaIndex) -> bool:
                nonlocal done
                back = [found for found in index.missing_from(older) if found[1].sha256 not in lost]
                gone = list(index.added_since(older)) if exact else []
                names = tuple(name for name, facts in index.missing_from(older) if facts.sha256 in lost)
                done = MediaRestored(len(back), len(gone), names)
                changes: list[tuple[str, FileFacts | None]] = [*back, *((name, None) for name in gone)]
                return index.apply(changes, self.clock_ms() // 1000)

            self.gate.change(user, change, origin=Origin(Kind.RESTORE, ""))
        return done

    @contextmanager
    def _checked_out(self, database: DatabaseId, head: Head, version: int) -> Iterator[Checkout]:
        point = find_restore_point(self.list_restore_points(database), version)
        if version == head.version:
            raise RestoreRefused(f"version {version} is the current one")
        checkout = self.databases.checkout_restore_point(database, point)
        try:
            yield checkout
        finally:
            self.databases.discard(checkout)

    def _find_at_risk(self, older: MediaIndex, index: MediaIndex) -> list[FileRow]:
        """Files to bring back whose content a sweep need not keep any more, one for each content.

        Whatever was there within the history is safe: the newest index says so to every sweep.
        """
        safe = set(index.contents_since((self.clock_ms() - self.history_ms) // 1000))
        found = {
            facts.sha256: FileRow(name, facts.sha256, facts.crc32, facts.size_bytes)
            for name, facts in index.missing_from(older)
            if facts.sha256 not in safe
        }
        return list(found.values())

    def _renew(self, rows: list[FileRow]) -> frozenset[bytes]:
        """Keep these contents from the next sweep; those that are lost already."""
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="renew-") as folder:
            copy = Path(folder, "blob")
            return frozenset(row.sha256 for row in rows if not self.blobs.renew(row, copy))


def _dated(checkout: Checkout, head: Head, now_ms: int) -> Stamps:
    checkout.begin()
    return force_one_way(checkout.connection, head.stamps, now_ms)


def insist(attempt: Callable[[], T]) -> T:
    """Try a commit without a session again for some time while others are first. Raises: Unavailable."""
    for tried in range(_TRIES):
        try:
            return attempt()
        except Conflict:
            time.sleep(random.uniform(0, 0.2 * 2**tried))  # noqa: S311 - nothing to guess
    raise Unavailable("the user syncs again and again: try later")
