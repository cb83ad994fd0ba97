"""The SQLite file of user list, host keys and counts of login attempts, shared by all processes of a host.

Used by `app.auth.local.users`, `localkeys` and `attempts`, which define the meaning of the rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw
from filelock import FileLock

from app.errors import ServiceUnavailable
from storage.types import Offload

FORMAT_VERSION = 3
_BUSY_MS = 5000

_SCHEMA = """
CREATE TABLE users (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL,   -- argon2id
    stamp BLOB NOT NULL,      -- random, new with every password
    created_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE keys (
    hash BLOB PRIMARY KEY,
    user TEXT NOT NULL,
    client TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    used_ms INTEGER NOT NULL,
    checked_ms INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    kind TEXT NOT NULL DEFAULT 'device',
    name TEXT NOT NULL DEFAULT '',
    parent BLOB NOT NULL DEFAULT x''
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_of_user ON keys (user);
CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO secrets VALUES ('attempts', randomblob(32));
PRAGMA application_id = 0x414E4B55; -- ANKU
"""

_COUNTS = """
CREATE TABLE counts (
    key BLOB PRIMARY KEY,     -- a keyed hash of a name or a network
    state BLOB NOT NULL,      -- see app.auth.attempts
    ends_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX counts_by_end ON counts (ends_ms);
"""

_UPGRADES = {
    # Login attempts are counted in another way; what is forgotten by that is a quarter of an hour of them.
    1: f"DROP TABLE attempts; {_COUNTS} PRAGMA user_version = 2;",
    2: """
ALTER TABLE keys ADD COLUMN kind TEXT NOT NULL DEFAULT 'device';
ALTER TABLE keys ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE keys ADD COLUMN parent BLOB NOT NULL DEFAULT x'';
PRAGMA user_version = 3;
""",
}
"""How a file of each earlier format becomes one of the next."""

_AWAY = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.CantOpenError,
    apsw.FullError,
    apsw.IOError,
    apsw.ReadOnlyError,
)

T = TypeVar("T")


class UsersFile:
    """The file. Readers never wait for writers (WAL), and see writes of all processes at once.

    `read` takes a few microseconds and runs on the event loop; it must not be called by two threads at the
    same time. `write` runs off the event loop.
    """

    def __init__(self, path: Path, offload: Offload[Any]) -> None:
        self._path, self._offload = path, offload
        self._reader: apsw.Connection | None = None

    def read(self, sql: str, bindings: tuple[Any, ...] = ()) -> list[Any]:
        """The rows of one statement."""
        try:
            # Opened by the first request, as a connection must not be used across a fork.
            reader = self._reader = self._reader or self._open()
            return reader.execute(sql, bindings).fetchall()
        except _AWAY as exc:
            raise _away(exc) from exc

    def revision(self) -> int:
        """A number that changes with each write to the file by any process. Threads: as `read`."""
        ((revision,),) = self.read("PRAGMA data_version")
        return int(revision)

    def write(self, work: Callable[[apsw.Connection], T], *, durable: bool = True) -> T:
        """Run `work` as one transaction; `durable`: also against a power cut."""

        def transaction() -> T:
            try:
                connection = self._open()
                try:
                    # In WAL mode, NORMAL does not sync a commit.
                    connection.pragma("synchronous", "FULL" if durable else "NORMAL")
                    connection.execute("BEGIN IMMEDIATE")
                    answer = work(connection)
                    connection.execute("COMMIT")
                    return answer
                finally:
                    connection.close()  # rolls back what was not committed
            except _AWAY as exc:
                raise _away(exc) from exc

        answer: T = self._offload(transaction)
        return answer

    def export_users(self) -> list[tuple[Any, ...]]:
        """All rows of the users, for a backup."""
        return [tuple(row) for row in self.read("SELECT * FROM users ORDER BY id")]

    def import_users(self, rows: Iterable[tuple[Any, ...]]) -> int:
        """Add the rows of a backup whose id and name are free; how many."""

        def insert(connection: apsw.Connection) -> int:
            before = connection.total_changes()
            connection.executemany("INSERT OR IGNORE INTO users VALUES (?, ?, ?, ?, ?, ?)", list(rows))
            return connection.total_changes() - before

        return self.write(insert)

    def _open(self) -> apsw.Connection:
        if not self._path.exists():
            self._create()
        _close_to_others(self._path)
        connection = _connect(self._path)
        version = connection.pragma("user_version")
        if version in _UPGRADES:
            version = _upgrade(connection)
        if version != FORMAT_VERSION:
            connection.close()
            raise ServiceUnavailable(
                f"{self._path.name} has format {version}, this version of the server reads {FORMAT_VERSION}"
            )
        return connection

    def _create(self) -> None:
        """Create the file under a temporary name, readable by its owner only, and rename it.

        If root creates it (a command with sudo), it gets the owner of the folder, so that the server can
        read it. SQLite gives its -wal and -shm files the same owner and mode.
        """
        folder = self._path.parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(f"{self._path}.lock", mode=0o600):
            if self._path.exists():
                return
            new = self._path.with_suffix(".new")
            new.unlink(missing_ok=True)
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            connection = _connect(new)
            connection.pragma("journal_mode", "WAL")
            connection.execute(
                f"BEGIN IMMEDIATE; {_SCHEMA} {_COUNTS} PRAGMA user_version = {FORMAT_VERSION}; COMMIT;"
            )
            connection.close()  # the last connection: SQLite checkpoints and removes the WAL
            if os.geteuid() == 0:
                owner = folder.stat()
                for made in (new, Path(f"{self._path}.lock")):
                    os.chown(made, owner.st_uid, owner.st_gid)
            # The file is complete now: other processes never see a partial one.
            new.rename(self._path)
            _sync_folder(folder)


def _close_to_others(path: Path) -> None:
    """Remove permissions of group and others, which a file restored from a backup may have."""
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), Path(f"{path}.lock")):
        # Files that are missing or belong to another user are skipped.
        with suppress(OSError):
            mode = name.stat().st_mode
            if mode & 0o077:
                name.chmod(mode & 0o700)


def _connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(_BUSY_MS)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    return connection


def _upgrade(connection: apsw.Connection) -> int:
    """Bring a file of an earlier format up to date, unless another process has; its format then."""
    connection.execute("BEGIN IMMEDIATE")
    while (version := int(connection.pragma("user_version"))) in _UPGRADES:
        connection.execute(_UPGRADES[version])
    connection.execute("COMMIT")
    return version


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _away(exc: apsw.Error) -> ServiceUnavailable:
    return ServiceUnavailable(f"the user list is away: {type(exc).__name__}")
