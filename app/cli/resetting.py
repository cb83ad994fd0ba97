"""Empties a user's collection or media, keeping the other and the history; devices upload theirs again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.history import insist
from app.main import Stores, build_gate
from storage.collection.engine.empty import create_empty
from storage.collection.oneway import force_one_way_of
from storage.database.store import Commit
from storage.media.index import FileRow, MediaIndex
from storage.types import DatabaseId, DatabaseKind, Head, UserId, run_inline


@dataclass(frozen=True, slots=True)
class Resetter:
    """Works beside running servers; each reset is one commit, and `history restore` undoes it."""

    stores: Stores
    clock_ms: Callable[[], int]
    nonce: Callable[[], str]

    def find(self, user: UserId, kind: DatabaseKind) -> Head:
        """What there is to be emptied."""
        return self.stores.databases.head(DatabaseId(user, kind))

    def reset_collection(self, user: UserId) -> Head:
        """Make an empty collection the newest version; clients then upload theirs. Raises: Unavailable."""
        return insist(lambda: self._reset_collection(DatabaseId(user, DatabaseKind.COLLECTION)))

    def _reset_collection(self, database: DatabaseId) -> Head:
        head = self.stores.databases.head(database)
        now_ms = self.clock_ms()
        path = self.stores.work.new_path(".empty")
        try:
            stamps = _create(path, head, now_ms)
            commit = Commit(self.nonce(), b"", now_ms, stamps, None)
            return self.stores.databases.replace(database, head, path, commit)
        finally:
            path.unlink(missing_ok=True)

    def reset_media(self, user: UserId) -> int:
        """Forget all media files without deleting them on devices; how many there were.

        The number of files no longer agrees with that of any device, so each compares all files at its next
        media sync and uploads what is missing. Raises: Conflict.
        """
        count = 0

        def forget(index: MediaIndex) -> bool:
            nonlocal count
            rows = [
                FileRow(name, facts.sha256, facts.crc32, facts.size_bytes)
                for name, facts in index.list_files()
            ]
            count = len(rows)
            now_s = self.clock_ms() // 1000
            # Versions of the history still need the contents.
            index.remember((row.sha256 for row in rows), now_s)
            index.ask_to_compare(now_s)
            return index.drop_rows(rows)

        build_gate(self.stores, offload=run_inline).change(user, forget)
        return count


def _create(path: Path, replaced: Head, now_ms: int) -> dict[str, Any]:
    """Write an empty collection that no device takes for its own; its stamps."""
    create_empty(path)
    return force_one_way_of(path, replaced.stamps, now_ms)
