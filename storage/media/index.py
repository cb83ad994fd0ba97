"""The media index of one user: names of media files, each with its content's hash and the USN of its change.

Used by `app.media`, in a transaction of the caller. The contents are in `storage.media.blobs`.

The database, schema version 1 (`PRAGMA user_version`), WAL mode, pages of 4096 bytes:

    files   one row per name ever known. usn INTEGER PRIMARY KEY, so that the table is in the order
            of changes and no USN is given twice; name TEXT UNIQUE, compared byte by byte;
            sha1 (20 bytes), sha256 (32 bytes; names the blob), crc32, size in bytes, mtime_s.
            A removed file stays as a tombstone: size 0, and null in place of the three sums.
    totals  one row: the last USN given, the number of files that are no tombstones, their bytes.
    gone    sha256 and time of each content that was replaced or removed. So the newest version
            shows which blobs the versions of the last weeks need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from storage.errors import Corrupt

SCHEMA_VERSION = 1
PAGE_BYTES = 4096
CHANGES_LIMIT = 1000
"""Rows of one answer to mediaChanges. Source: rslib/src/sync/media/database/server/entry/changes.sql."""

_SCHEMA = """
CREATE TABLE files (
  usn INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  sha1 BLOB,
  sha256 BLOB,
  crc32 INTEGER,
  size INTEGER NOT NULL,
  mtime_s INTEGER NOT NULL,
  CHECK (size > 0 AND length(sha1) = 20 AND length(sha256) = 32 AND crc32 IS NOT NULL
      OR size = 0 AND coalesce(sha1, sha256, crc32) IS NULL)
) STRICT;
CREATE TABLE totals (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  usn INTEGER NOT NULL,
  files INTEGER NOT NULL,
  bytes INTEGER NOT NULL
) STRICT;
INSERT INTO totals VALUES (1, 0, 0, 0);
CREATE TABLE gone (
  id INTEGER PRIMARY KEY,
  sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
  gone_s INTEGER NOT NULL
) STRICT;
"""

GONE_KEPT_S = 400 * 24 * 3600
"""How long rows of `gone` are kept at least: no history may be longer."""

_FORGOTTEN_AT_ONCE = 50


_REPLACE = """
INSERT OR REPLACE INTO files (usn, name, sha1, sha256, crc32, size, mtime_s) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_NOTHING = (None, None, None, 0)


class FileFacts(msgspec.Struct, frozen=True):
    """Hashes and size of a file's content, as computed by the server."""

    sha1: bytes
    sha256: bytes
    crc32: int
    size_bytes: int
    """At least 1: the protocol does not have empty files."""


class FileRow(NamedTuple):
    """A file that exists (no tombstone)."""

    name: str
    sha256: bytes
    crc32: int
    size_bytes: int


class Totals(NamedTuple):
    """What a user's media come to."""

    files: int
    size_bytes: int


class MediaIndex:
    """The SQL of the media database, on a connection whose transaction is the caller's."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Raises: Corrupt if the database has another schema version."""
        found = connection.pragma("user_version")
        if found != SCHEMA_VERSION:
            raise Corrupt("media index", f"schema {SCHEMA_VERSION}", f"schema {found}")
        self._connection = connection

    def apply(self, changes: Iterable[tuple[str, FileFacts | None]], now_s: int) -> bool:
        """Add or replace (facts) or remove (None) files, in order; returns whether anything changed.

        Each change takes the next USN; storing the same content again, or removing a missing file, is no
        change. A name that comes twice is changed twice. If it raises, the caller must roll back.
        """
        execute = self._connection.execute
        before, files, total_bytes = self._totals()
        # With a clock that is behind, rows of `gone` must not get a time before the history; with one that is
        # ahead, no rows must be forgotten early.
        latest_s = self._latest_s()
        forget_s, now_s = min(now_s, latest_s), max(now_s, latest_s)
        usn = before
        for name, facts in changes:
            found: Any = execute("SELECT sha256, size FROM files WHERE name = ?", (name,)).fetchone()
            old_sha256, old_bytes = found or (None, 0)
            # The same content again, or a removal of a file that does not exist.
            if (facts.sha256 if facts else None) == old_sha256:
                continue
            usn += 1
            if old_sha256 is not None:
                self.remember([old_sha256], now_s)
            execute(
                _REPLACE, (usn, name, *(_NOTHING if facts is None else msgspec.structs.astuple(facts)), now_s)
            )
            # +1 for an added file, -1 for a removed one, 0 for a replaced one.
            files += (facts is not None) - (old_sha256 is not None)
            total_bytes += (facts.size_bytes if facts else 0) - old_bytes
        # Nothing changed, so the caller need not commit.
        if usn == before:
            return False
        self._set_totals(usn, files, total_bytes)
        self._forget_old(forget_s)
        return True

    def totals(self) -> Totals:
        """Of all files that exist."""
        return Totals(*self._totals()[1:])

    def totals_with(self, changes: Iterable[tuple[str, FileFacts | None]]) -> tuple[Totals, Totals]:
        """The totals now, and as they would be after `apply`."""
        before = self.totals()
        files, size_bytes = before
        for name, facts in dict(changes).items():
            found: Any = self._connection.execute("SELECT size FROM files WHERE name = ?", (name,)).fetchone()
            old_bytes = found[0] if found else 0
            files += (facts is not None) - (old_bytes > 0)
            size_bytes += (facts.size_bytes if facts else 0) - old_bytes
        return before, Totals(files, size_bytes)

    def _latest_s(self) -> int:
        """The time of the last recorded change."""
        row: Any = self._connection.execute(
            "SELECT max(coalesce((SELECT mtime_s FROM files ORDER BY usn DESC LIMIT 1), 0),"
            " coalesce((SELECT gone_s FROM gone ORDER BY id DESC LIMIT 1), 0))"
        ).fetchone()
        return int(row[0])

    def remember(self, contents: Iterable[bytes], now_s: int) -> None:
        """Add contents (SHA-256) to `gone`: earlier versions have them, and this one does not.

        When an older version is restored, the caller must add the contents of the version that it replaces.
        """
        rows = ((sha256, now_s) for sha256 in contents)
        self._connection.executemany("INSERT INTO gone (sha256, gone_s) VALUES (?, ?)", rows)

    def restore(self, rows: Iterable[tuple[int, str, FileFacts | None, int]], last_usn: int) -> None:
        """Fill an empty index from another server: (usn, name, facts or None, mtime_s), ordered by USN.

        The USNs stay, so that clients continue from the one they know. If two rows have the same USN, the
        later one gets the next.
        """
        usn = files = total_bytes = 0
        for given_usn, name, facts, mtime_s in rows:
            # Strictly ascending, as `usn` is the primary key.
            usn = max(usn + 1, given_usn)
            values = _NOTHING if facts is None else msgspec.structs.astuple(facts)
            self._connection.execute(_REPLACE, (usn, name, *values, mtime_s))
            files += facts is not None
            total_bytes += facts.size_bytes if facts else 0
        self._set_totals(max(usn, last_usn), files, total_bytes)

    def list_files(self) -> Iterator[tuple[str, FileFacts]]:
        """All files that exist, by USN; lazy."""
        rows: Any = self._connection.execute(
            "SELECT name, sha1, sha256, crc32, size FROM files WHERE size > 0 ORDER BY usn"
        )
        return ((name, FileFacts(*facts)) for name, *facts in rows)

    def missing_from(self, older: MediaIndex) -> Iterator[tuple[str, FileFacts]]:
        """The files of an older version that are missing here or have another content; lazy.

        `apply` restores them, each with a new USN, so that devices fetch them.
        """
        return (
            (name, facts)
            for name, facts in older.list_files()
            if (found := self._find(name)) is None or found.sha256 != facts.sha256
        )

    def added_since(self, older: MediaIndex) -> Iterator[str]:
        """The names of files that are not in an older version; lazy."""
        return (name for name, _ in self.list_files() if older._find(name) is None)

    def changes_since(self, last_usn: int, limit: int = CHANGES_LIMIT) -> list[tuple[str, int, str]]:
        """(name, usn, sha1 in lower-case hex, or "" for a tombstone) with usn > last_usn, ordered by USN.

        Clients continue from the last row's USN until an answer is empty, so the order matters.
        """
        rows: list[Any] = self._connection.execute(
            "SELECT name, usn, coalesce(lower(hex(sha1)), '') FROM files WHERE usn > ? ORDER BY usn LIMIT ?",
            (last_usn, limit),
        ).fetchall()
        return rows

    def find_many(self, names: Sequence[str]) -> list[FileRow | None]:
        """For each name its file, or None if it never existed or was removed."""
        return [self._find(name) for name in names]

    def drop_rows(self, rows: Iterable[FileRow]) -> bool:
        """Delete the rows of files whose blobs are lost; returns whether any was deleted.

        Without tombstone or USN, so that devices do not delete their own files. Rows that have another
        content by now stay. Source: rslib/src/sync/media/database/server/entry/download.rs
        (forget_missing_file).
        """
        usn, files, total_bytes = self._totals()
        before = files
        for row in rows:
            self._connection.execute(
                "DELETE FROM files WHERE name = ? AND sha256 = ?", (row.name, row.sha256)
            )
            # Only if the row still has this content.
            if self._connection.changes():
                files -= 1
                total_bytes -= row.size_bytes
        if files == before:
            return False
        self._set_totals(usn, files, total_bytes)
        return True

    def ask_to_compare(self, now_s: int) -> None:
        """Make every device compare its number of files with ours at its next media sync.

        A device that is at our USN and has nothing to send does not ask. So there is a USN more, of a
        tombstone for a name that no file has; where the numbers differ, the device then lists all files anew.
        Source: rslib/src/sync/media/syncer.rs of ankitects/anki (sync_inner).
        """
        usn, files, total_bytes = self._totals()
        name = f"_ankisyncd-compare-{usn + 1}"
        while self._connection.execute("SELECT 1 FROM files WHERE name = ?", (name,)).fetchone():
            name += "_"
        self._connection.execute(_REPLACE, (usn + 1, name, *_NOTHING, now_s))
        self._set_totals(usn + 1, files, total_bytes)

    def contents_since(self, time_s: int) -> Iterator[bytes]:
        """The SHA-256 of each content that a file has, or had at `time_s` or later.

        Unordered; a content may come several times.
        """
        rows: Any = self._connection.execute(
            "SELECT sha256 FROM files WHERE size > 0 UNION ALL SELECT sha256 FROM gone WHERE gone_s >= ?",
            (time_s,),
        )
        for (sha256,) in rows:
            yield sha256

    def stamps(self) -> dict[str, int | bool]:
        """The stamps for the head: `usn` (the last one used), `count` and `bytes` of the existing files."""
        usn, files, total_bytes = self._totals()
        return {"usn": usn, "count": files, "bytes": total_bytes}

    def recount(self) -> dict[str, int | bool]:
        """The values of `stamps` from a scan of all rows; `usn` is a lower bound, as rows can be dropped."""
        row: Any = self._connection.execute(
            "SELECT coalesce(max(usn), 0), count(nullif(size, 0)), coalesce(sum(size), 0) FROM files"
        ).fetchone()
        return dict(zip(("usn", "count", "bytes"), row, strict=True))

    def count_anew(self) -> bool:
        """Set the totals by a scan of all rows; False if they were right. The USN never goes down."""
        usn, files, total_bytes = self._totals()
        counted = self.recount()
        found = max(usn, counted["usn"]), counted["count"], counted["bytes"]
        if found == (usn, files, total_bytes):
            return False
        self._set_totals(*found)
        return True

    def _forget_old(self, now_s: int) -> None:
        """Delete the oldest expired rows of `gone`: with each call more than a batch usually adds."""
        self._connection.execute(
            "DELETE FROM gone WHERE gone_s < ? AND id IN (SELECT id FROM gone ORDER BY id LIMIT ?)",
            (now_s - GONE_KEPT_S, _FORGOTTEN_AT_ONCE),
        )

    def _find(self, name: str) -> FileRow | None:
        row: Any = self._connection.execute(
            "SELECT name, sha256, crc32, size FROM files WHERE name = ? AND size > 0", (name,)
        ).fetchone()
        return FileRow(*row) if row else None

    def _totals(self) -> tuple[int, int, int]:
        row: Any = self._connection.execute("SELECT usn, files, bytes FROM totals").fetchone()
        usn, files, total_bytes = row
        return usn, files, total_bytes

    def _set_totals(self, usn: int, files: int, total_bytes: int) -> None:
        self._connection.execute("UPDATE totals SET usn = ?, files = ?, bytes = ?", (usn, files, total_bytes))


def create_empty(path: Path) -> None:
    """Write the media database of a user without media; always the same bytes."""
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.pragma("page_size", PAGE_BYTES)
        with connection:
            connection.execute(_SCHEMA)
            connection.pragma("user_version", SCHEMA_VERSION)
        connection.pragma("journal_mode", "wal")
