"""The head store of one machine: one SQLite file that all its worker processes share.

SQLite's write lock is held only for the microseconds that it takes to write a record, never during an fsync:
every write commits into the WAL without waiting for the disk, and a write that must be durable then syncs
the WAL file, off the event loop. The WAL is written in order, so one sync covers all earlier commits,
including those of other processes; writers that wait at the same time share one. See `storage/README.md`,
"Head record".

A write reads the record without a lock, computes the next one, and stores it on condition that the record
still has the bytes that were read. If another process has changed it, the write is done again with the
lock taken first. Recent records are cached with their bytes, so most reads need no decoding.
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar

import apsw
import msgspec

from storage.errors import Corrupt, NotDurable, StorageError, Unavailable
from storage.heads import transitions
from storage.heads.base import HeadUpdate, NewSession, SessionUpdate
from storage.heads.keys import check_user, databases_of
from storage.types import ChainEntry, DatabaseId, DatabaseKind, Head, JournalEntry, Offload, UserId

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Head | None)

FORMAT_VERSION: Final = 1
APPLICATION_ID: Final = 0x416E6B48
"""`AnkH`, in the SQLite header of the file."""

_TABLE: Final = """
    CREATE TABLE heads (
        id INTEGER PRIMARY KEY,
        user TEXT NOT NULL,
        kind TEXT NOT NULL,
        record BLOB NOT NULL,
        UNIQUE (user, kind)
    ) STRICT
"""
_FIND: Final = "SELECT record FROM heads WHERE user = ? AND kind = ?"
_FIND_BOTH: Final = "SELECT kind, record FROM heads WHERE user = ?"
_STORE: Final = """
    INSERT INTO heads (user, kind, record) VALUES (?, ?, ?)
    ON CONFLICT (user, kind) DO UPDATE SET record = excluded.record
"""
_EXCHANGE: Final = "UPDATE heads SET record = ? WHERE user = ? AND kind = ? AND record = ?"
_DELETE: Final = "DELETE FROM heads WHERE user = ? AND kind = ?"
_LIST: Final = """
    SELECT user, kind FROM heads WHERE (user, kind) > (?, ?) ORDER BY user, kind LIMIT 500
"""

_PAGE_BYTES: Final = 8192
"""Nearly every record fits into one page, so a write is one frame. Existing files keep their page size."""

_CHECKPOINT_PAGES: Final = 1000
"""Pages in the WAL from which on a write starts a checkpoint, which does not block readers or writers."""
_CHECKPOINT_PATIENCE: Final = 4
"""At this multiple the checkpoint blocks writers for a moment, so that the WAL is reset to its start."""

_KNOWN: Final = 512
_KNOWN_BYTES: Final = 16 << 10
"""How many records are cached, and the largest size of one."""

_YIELDS: Final = 500
"""How often a writer that finds the file locked yields the CPU before it sleeps; the lock is held briefly."""
_NAP_S: Final = 0.001
_NAPS: Final = 10_000


class LocalHeadStore:
    """The head store of one machine."""

    def __init__(self, path: Path, offload: Offload[None]) -> None:
        self._path = path
        self._offload = offload
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Head)
        self._lock = Lock()
        self._known: OrderedDict[DatabaseId, tuple[bytes, Head]] = OrderedDict()
        self._sync_turn = Lock()
        self._written = self._synced = 0
        """Durable writes are numbered: the last one in the WAL, and the last one that a sync has covered."""
        self._wal_pages = 0
        self._checkpointing = False
        self._sync_failed = False
        with _Mapped(path):
            self._connection = _connect(path)
            self._connection.set_wal_hook(self._note_wal)
            self._checkpointer = _connect(path)
            # A sync of an earlier process may have failed: the checkpoint writes and syncs the WAL's pages.
            with suppress(apsw.BusyError, apsw.LockedError):
                self._checkpointer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            # As long as the connections above are open, SQLite does not replace this file. SQLite has no
            # POSIX locks on it, so closing our descriptor cannot drop any.
            self._wal = os.open(f"{path}-wal", os.O_RDONLY)

    def close(self) -> None:
        """Close the file; the last process to do so makes SQLite checkpoint the WAL."""
        os.close(self._wal)
        self._checkpointer.close()
        self._connection.close()

    def find(self, database: DatabaseId) -> Head | None:
        check_user(database.user)
        with _Mapped(self._path), self._lock:
            return self._load(database)[1]

    def find_many(self, databases: Sequence[DatabaseId]) -> list[Head | None]:
        found: dict[DatabaseId, Head] = {}
        for user in dict.fromkeys(database.user for database in databases):
            check_user(user)
            with _Mapped(self._path), self._lock:
                for kind, record in self._connection.execute(_FIND_BOTH, (user,)):
                    database = DatabaseId(user, DatabaseKind(str(kind)))
                    found[database] = self._decoded(database, record)
        return [found.get(database) for database in databases]

    def open_session(self, database: DatabaseId, session: NewSession) -> Head:
        return self._change(database, lambda head: transitions.open_session(head, session))

    def append(self, database: DatabaseId, session_id: str, entry: JournalEntry) -> Head:
        return self._change(database, lambda head: transitions.append(head, session_id, entry))

    def update_session(
        self, database: DatabaseId, token: int, session_id: str, seq: int, update: SessionUpdate
    ) -> Head:
        return self._change(
            database, lambda head: transitions.update_session(head, token, session_id, seq, update)
        )

    def close_session(self, database: DatabaseId, token: int, session_id: str) -> bool:
        closed = True

        def close(head: Head | None) -> Head | None:
            nonlocal closed
            after = transitions.close_session(head, token, session_id)
            closed = after is not None
            return after if closed else head

        self._change(database, close)
        return closed

    def advance_head(self, database: DatabaseId, update: HeadUpdate) -> Head:
        head = self._change(database, lambda head: transitions.advance_head(head, update))
        self._make_durable()
        return head

    def replace_chain(
        self, database: DatabaseId, token: int, chain_revision: int, chain: tuple[ChainEntry, ...]
    ) -> Head:
        head = self._change(
            database, lambda head: transitions.replace_chain(head, token, chain_revision, chain)
        )
        self._make_durable()
        return head

    def replace_head(self, database: DatabaseId, found: Head | None, head: Head) -> None:
        self._change(database, lambda before: transitions.replace_head(before, found, head))
        self._make_durable()

    def list(self, user: UserId | None = None) -> Iterator[DatabaseId]:
        if user is not None:
            yield from databases_of(user, self.find)
            return
        after: tuple[Any, ...] = ("", "")
        while True:
            with _Mapped(self._path), self._lock:
                rows = self._connection.execute(_LIST, after).fetchall()
            if not rows:
                return
            for name, kind in rows:
                yield DatabaseId(UserId(str(name)), DatabaseKind(str(kind)))
            after = rows[-1]

    def list_changed(self, since_ms: int) -> Iterator[DatabaseId]:
        # Reading and decoding a record takes 10 us, so an index by time is not worth updating with every
        # commit.
        for database in self.list():
            head = self.find(database)
            if head is not None and transitions.changed_since(head, since_ms):
                yield database

    def settle(self, database: DatabaseId, chain_revision: int) -> None:
        """Does nothing: `list_changed` goes by the time of the last commit."""

    def delete(self, database: DatabaseId) -> None:
        check_user(database.user)
        self._check_disk()
        with self._transaction():
            self._connection.execute(_DELETE, (database.user, database.kind.value))
        self._make_durable()

    def _change(self, database: DatabaseId, transition: Callable[[Head | None], T]) -> T:
        """Apply a transition, and return its result; nothing is written if that is the same object."""
        check_user(database.user)
        self._check_disk()
        with _Mapped(self._path), self._lock:
            record, before = self._load(database)
        after = transition(before)
        # The usual case is one read and one UPDATE; only after a conflict the lock is taken first.
        if after is not before and not self._exchange(database, record, after):
            with self._transaction():
                _, before = self._load(database)
                after = transition(before)
                if after is not before:
                    self._store(database, after)
        self._checkpoint_if_due()
        return after

    def _exchange(self, database: DatabaseId, record: bytes | None, after: Head | None) -> bool:
        """Replace a record that was read; False if the stored one has changed since."""
        if record is None or after is None:
            return False
        new = self._encoder.encode(after)
        with _Mapped(self._path), self._lock:
            self._connection.execute(_EXCHANGE, (new, database.user, database.kind.value, record))
            if self._connection.changes() != 1:
                return False
        self._keep(database, new, after)
        return True

    def _keep(self, database: DatabaseId, record: bytes, head: Head) -> None:
        known = self._known
        known[database] = (record, head)
        known.move_to_end(database)
        # Large records, with long journals, are not cached.
        if len(record) > _KNOWN_BYTES:
            del known[database]
        elif len(known) > _KNOWN:
            known.popitem(last=False)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        execute = self._connection.execute
        with _Mapped(self._path), self._lock:
            execute("BEGIN IMMEDIATE")
            try:
                yield
                execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    execute("ROLLBACK")
                raise

    def _load(self, database: DatabaseId) -> tuple[bytes | None, Head | None]:
        record = self._connection.execute(_FIND, (database.user, database.kind.value)).get
        return record, None if record is None else self._decoded(database, record)

    def _decoded(self, database: DatabaseId, record: bytes) -> Head:
        known = self._known.get(database)
        # The same bytes: no need to decode them.
        if known is not None and known[0] == record:
            return known[1]
        try:
            head = self._decoder.decode(record)
        except (msgspec.DecodeError, msgspec.ValidationError) as exc:
            raise Corrupt(f"{self._path}: {database}", "a head record", str(exc)) from exc
        self._keep(database, record, head)
        return head

    def _store(self, database: DatabaseId, head: Head | None) -> None:
        record = self._encoder.encode(head)
        self._connection.execute(_STORE, (database.user, database.kind.value, record))

    def _note_wal(self, _connection: apsw.Connection, _schema: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _make_durable(self) -> None:
        """Sync the WAL. Callers that come while a sync runs share the next one (group commit)."""
        with self._lock:
            self._written += 1
            mine = self._written
        with self._sync_turn:
            # Else the sync of another caller has covered this write while this one waited.
            if self._synced < mine:
                # Writes up to this number are in the WAL now; later ones may or may not be covered.
                covered = self._written
                self._offload(self._sync)
                self._synced = covered
        self._checkpoint_if_due()

    def _sync(self) -> None:
        self._check_disk(after_write=True)
        try:
            os.fdatasync(self._wal)
        except OSError as exc:
            self._sync_failed = True
            raise NotDurable(f"{self._path}: {exc.strerror}") from exc

    def _check_disk(self, *, after_write: bool = False) -> None:
        # After a failed sync the kernel may have dropped the dirty pages, and a later sync succeeds without
        # writing them. So this process writes nothing any more; the next start checkpoints the WAL.
        if self._sync_failed:
            message = f"{self._path}: an earlier sync failed; start the server again"
            raise NotDurable(message) if after_write else Unavailable(message)

    def _checkpoint_if_due(self) -> None:
        if self._wal_pages > _CHECKPOINT_PAGES and not self._checkpointing:
            self._checkpointing = True
            self._offload(self._checkpoint)

    def _checkpoint(self) -> None:
        """Checkpoint the WAL. A failure loses nothing, as the records stay in the WAL."""
        try:
            self._checkpointer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            # Readers have kept the WAL from being reset for long: wait for them, and truncate it.
            if self._wal_pages > _CHECKPOINT_PAGES * _CHECKPOINT_PATIENCE:
                self._checkpointer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            pass  # another process checkpoints; a later write tries again
        except apsw.Error as exc:
            log.warning("%s could not be checkpointed: %s", self._path, exc)
        finally:
            self._checkpointing = False


def _connect(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_handler(_give_way)
        connection.pragma("page_size", _PAGE_BYTES)
        connection.pragma("journal_mode", "wal")
        connection.wal_autocheckpoint(0)
        # With NORMAL a power cut cannot damage the file, but SQLite does not sync commits: `_make_durable`
        # does.
        connection.pragma("synchronous", "normal")
        connection.execute("BEGIN IMMEDIATE")
        _create_or_check(connection, path)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _create_or_check(connection: apsw.Connection, path: Path) -> None:
    application, version = connection.pragma("application_id"), connection.pragma("user_version")
    if (application, version) == (0, 0) and connection.pragma("schema_version") == 0:
        connection.execute(_TABLE)
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", FORMAT_VERSION)
    elif application != APPLICATION_ID:
        raise Corrupt(str(path), f"application id {APPLICATION_ID:#x}", f"{application:#x}")
    elif version != FORMAT_VERSION:
        raise StorageError(
            f"{path} has format version {version}; this program reads {FORMAT_VERSION}. "
            "Run the version of the program that wrote it, or a newer one."
        )


def _give_way(tries: int) -> bool:
    if tries < _YIELDS:
        # The other process holds the lock for microseconds only.
        os.sched_yield()
    else:
        time.sleep(_NAP_S)
    return tries < _YIELDS + _NAPS


class _Mapped:
    """Maps errors of SQLite and of the disk. A class, as it is faster than a generator and on every path."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        if isinstance(exc, apsw.NotADBError | apsw.CorruptError):
            raise Corrupt(str(self._path), "a sound SQLite file", str(exc)) from exc
        if isinstance(exc, _AWAY):
            raise Unavailable(f"{self._path}: {exc}") from exc
        if isinstance(exc, OSError):
            raise Unavailable(f"{self._path}: {exc.strerror}") from exc


_AWAY: Final = (
    apsw.BusyError,
    apsw.FullError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
)
