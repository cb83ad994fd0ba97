"""A small world for tests of the versioned database: stores, workers, and files to begin with."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from storage.database.commit import Commit
from storage.database.limits import Limits
from storage.database.store import DatabaseStore
from storage.heads.base import HeadStore, NewSession
from storage.heads.memory import MemoryHeadStore
from storage.objects.base import ObjectStore
from storage.objects.memory import MemoryObjectStore
from storage.types import DatabaseId, DatabaseKind, JournalEntry, UserId, run_inline

DATABASE = DatabaseId(UserId("ann"), DatabaseKind.COLLECTION)
OTHER = DatabaseId(UserId("bob"), DatabaseKind.COLLECTION)


def make_store(
    heads: HeadStore,
    objects: ObjectStore,
    folder: Path,
    clock_ms: Callable[[], int],
    nonce: Callable[[], str],
    **changes: Any,
) -> DatabaseStore:
    """A store as a worker has it, but that SQLite works in the caller's thread and knows nothing of Anki."""
    usual = {"offload": run_inline, "configure": lambda _: None, "limits": Limits()}
    return DatabaseStore(heads, objects, folder, clock_ms=clock_ms, nonce=nonce, **usual | changes)


class World:
    """Stores that outlive workers, a clock, and a source of nonces."""

    def __init__(self, root: Path, *, heads=None, objects=None, limits: Limits | None = None) -> None:
        self.root, self.now_ms = root, 1_700_000_000_000
        self.heads = heads or MemoryHeadStore()
        self.objects = objects or MemoryObjectStore(self.clock_ms)
        self.limits = limits or Limits()
        self._numbers = itertools.count(1)
        self.workers: list[DatabaseStore] = []

    def clock_ms(self) -> int:
        return self.now_ms

    def nonce(self) -> str:
        return f"{next(self._numbers):08x}"

    def worker(
        self,
        folder: str = "local",
        *,
        heads=None,
        objects=None,
        offload=run_inline,
        count=lambda event: None,
        **limits,
    ) -> DatabaseStore:
        store = make_store(
            heads or self.heads,
            objects or self.objects,
            self.root / folder,
            self.clock_ms,
            self.nonce,
            offload=offload,
            limits=_changed(self.limits, limits),
            count=count,
        )
        self.workers.append(store)
        return store

    def fresh(self, **limits) -> DatabaseStore:
        """A worker on an empty disk."""
        return self.worker(f"fresh-{next(self._numbers)}", **limits)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    def commit(self, name: str | None = None, session: tuple[str, int] | None = None) -> Commit:
        name = name or f"commit-{next(self._numbers)}"
        return Commit(name, b"answer of " + name.encode(), self.now_ms, {"mod": self.now_ms}, session)

    def genesis(self, store: DatabaseStore, database: DatabaseId = DATABASE, rows: int = 2000, **shape):
        """Replace whatever there is by a small file; returns the head."""
        return self.genesis_from(store, make_file(store.new_path(".upload"), rows, **shape), database)

    def genesis_from(self, store: DatabaseStore, path: Path, database: DatabaseId = DATABASE):
        """Replace whatever there is by this file; returns the head."""
        return store.replace(database, store.head(database), path, self.commit())

    def change(self, store: DatabaseStore, sql: str, database: DatabaseId = DATABASE, head=None):
        """One commit without a session; returns the head."""
        head = head or store.head(database)
        checkout = store.checkout(database, head)
        checkout.begin()
        checkout.connection.execute(sql)
        head = store.commit(checkout, head, self.commit())
        store.release(checkout)
        return head


def _changed(limits: Limits, changes: dict[str, int]) -> Limits:
    return Limits(**{**{name: getattr(limits, name) for name in limits.__struct_fields__}, **changes})


def make_file(path: Path, rows: int = 2000, *, page_size: int = 4096, auto_vacuum: int = 0) -> Path:
    """A file in WAL mode with a table `t(id, v)`, and no log beside it."""
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {auto_vacuum}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB); CREATE INDEX t_v ON t (v)")
    with connection:
        connection.executemany(
            "INSERT INTO t VALUES (?, ?)", ((n, b"%08d" % (n * 7919 % 100003) * 8) for n in range(rows))
        )
    connection.pragma("wal_checkpoint(TRUNCATE)")
    connection.close()
    assert not path.with_name(path.name + "-wal").exists()
    return path


def rows_of(store: DatabaseStore, database: DatabaseId = DATABASE) -> dict[int, bytes]:
    """The table, as a reader of the current version sees it; the database must be sound."""
    checkout = store.checkout(database, store.head(database))
    assert checkout.connection.pragma("integrity_check") == "ok"
    rows = dict(checkout.connection.execute("SELECT id, v FROM t"))
    store.release(checkout)
    return rows


def bytes_of(store: DatabaseStore, database: DatabaseId = DATABASE) -> bytes:
    """The current version as a file."""
    checkout = store.checkout(database, store.head(database))
    content = b"".join(checkout.reader().blocks())
    store.release(checkout)
    return content


def new_session(name: str, now_ms: int = 0) -> NewSession:
    first = JournalEntry("applyGraves", b"0" * 16, now_ms, b"{}", None)
    return NewSession(name, 1, now_ms, (first,))


def entry(method: str, body: bytes | None) -> JournalEntry:
    return JournalEntry(method, b"1" * 16, 0, body, None, size_bytes=len(body or b""))
