"""The SQLite file of the user list, the host keys and the login attempts; shared by all processes.

Refuses to know what the rows mean: `app.auth.local`, `localkeys` and `attempts` do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import apsw
from filelock import FileLock

from app.errors import ServiceUnavailable
from storage.types import Offload

FORMAT_VERSION = 1
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
    sealed BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_of_user ON keys (user);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    pair BLOB NOT NULL,       -- of name and address; both keyed hashes
    address BLOB NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX attempts_of_pair ON attempts (pair, at_ms);
CREATE INDEX attempts_of_address ON attempts (address, at_ms);
CREATE INDEX attempts_by_time ON attempts (at_ms);
CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO secrets VALUES ('attempts', randomblob(32));
PRAGMA application_id = 0x414E4B55; -- ANKU
"""

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
    """Readers never wait for writers (WAL), and see every write at once, from any process.

    `read` runs where it is called, a few microseconds; it must not be called by two threads at a
    time. `write` runs off the event loop.
    """

    def __init__(self, path: Path, offload: Offload[Any]) -> None:
        self._path, self._offload = path, offload
        self._reader: apsw.Connection | None = None

    def read(self, sql: str, bindings: tuple[Any, ...] = ()) -> list[Any]:
        """The rows of one statement."""
        with _AwayIsUnavailable():
            # Opened by the first request: a connection must not be carried through a fork.
            reader = self._reader = self._reader or self._open()
            return reader.execute(sql, bindings).fetchall()

    def revision(self) -> int:
        """Another number after each write to the file, by any process. See `read` for who may ask."""
        ((revision,),) = self.read("PRAGMA data_version")
        return int(revision)

    def write(self, work: Callable[[apsw.Connection], T], *, durable: bool = True) -> T:
        """Run `work` as one transaction; `durable`: also against a power cut."""

        def transaction() -> T:
            with _AwayIsUnavailable():
                connection = self._open()
                try:
                    connection.pragma("synchronous", "FULL" if durable else "NORMAL")
                    connection.execute("BEGIN IMMEDIATE")
                    answer = work(connection)
                    connection.execute("COMMIT")
                    return answer
                finally:
                    connection.close()  # rolls back what was not committed

        answer: T = self._offload(transaction)
        return answer

    def _open(self) -> apsw.Connection:
        if not self._path.exists():
            self._create()
        connection = _connect(self._path)
        version = connection.pragma("user_version")
        if version != FORMAT_VERSION:
            connection.close()
            raise ServiceUnavailable(
                f"{self._path.name} has format {version}, this version of the server reads {FORMAT_VERSION}"
            )
        return connection

    def _create(self) -> None:
        """Make the file, readable by its owner only, whole before it has its name."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._path}.lock"):
            if self._path.exists():
                return
            new = self._path.with_suffix(".new")
            new.unlink(missing_ok=True)
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            connection = _connect(new)
            connection.pragma("journal_mode", "WAL")
            connection.execute(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {FORMAT_VERSION}; COMMIT;")
            connection.close()  # the last one: the log is folded in and goes
            new.rename(self._path)
            _sync_folder(self._path.parent)


def _connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(_BUSY_MS)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    return connection


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _AwayIsUnavailable:
    """A class, as every request passes here."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        if isinstance(exc, _AWAY):
            raise ServiceUnavailable(f"the user list is away: {type(exc).__name__}") from exc
