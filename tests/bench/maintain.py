"""Prints how long maintenance takes with the latencies of AWS, and how many calls it makes.

python -m tests.bench.maintain [users] [changed]

S3 20 ms and DynamoDB 5 ms per call are added to stores in memory. Users have a collection and media; those
who have synced since the last run have made 20 commits in their media, so that their chains are due.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw

from app.locks import KeyedLocks
from app.maintenance import Maintenance
from storage.database.format import keys
from storage.database.store import Commit, DatabaseStore, Limits
from storage.heads.base import HeadUpdate
from storage.heads.memory import MemoryHeadStore
from storage.media.index import FileFacts, MediaIndex, create_empty
from storage.objects.memory import MemoryObjectStore
from storage.types import ChainEntry, DatabaseId, DatabaseKind, EntryKind, UserId, run_inline

S3_S, DYNAMODB_S = 0.020, 0.005
AT_ONCE = 16
COMMITS = 20
DAY_MS = 24 * 3_600_000
LISTED = {"list", "list_changed"}
PAGE = 1000


class Clock:
    """A clock that starts a month ago."""

    def __init__(self) -> None:
        self.behind_ms = 30 * DAY_MS

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 - self.behind_ms


class Slow:
    """A store behind a network; listings cost a call for each page."""

    def __init__(self, inner: Any, latency_s: float, calls: Counter[str]) -> None:
        self._inner, self._latency_s, self._calls = inner, latency_s, calls

    def __getattr__(self, method: str) -> Any:
        real = getattr(self._inner, method)

        def call(*args: Any, **options: Any) -> Any:
            if method in LISTED:
                return self._pages(method, real(*args, **options))
            self._wait(method)
            return real(*args, **options)

        return call

    def _pages(self, method: str, found: Any) -> Any:
        for number, one in enumerate(found):
            if number % PAGE == 0:
                self._wait(method)
            yield one

    def _wait(self, method: str) -> None:
        self._calls[method] += 1
        time.sleep(self._latency_s)


class Store:
    """Users who synced long ago, and the maintenance of them all."""

    def __init__(self, folder: Path, users: int) -> None:
        self.folder, self.clock, self.calls = folder, Clock(), Counter[str]()
        numbers = itertools.count()
        self.nonce = lambda: f"n{next(numbers)}"
        self.heads, self.objects = MemoryHeadStore(), MemoryObjectStore(self.clock)
        self.databases = self._databases(self.heads, self.objects, "cache")
        heads: Any = Slow(self.heads, DYNAMODB_S, self.calls)
        objects: Any = Slow(self.objects, S3_S, self.calls)
        (folder / "scratch").mkdir()
        self.pool = ThreadPoolExecutor(AT_ONCE)
        self.maintenance = Maintenance(
            self._databases(heads, objects, "maintenance"),
            heads,
            objects,
            clock_ms=self.clock,
            nonce=self.nonce,
            offload=run_inline,
            scratch=folder / "scratch",
            locks=KeyedLocks(threading.RLock),
            limits=Limits(),
            in_parallel=self.pool.map,
        )
        template = folder / "template"
        create_empty(template)
        with contextlib.closing(apsw.Connection(str(template))) as connection, connection:
            MediaIndex(connection).apply([("a.jpg", FileFacts(bytes(20), bytes(32), 0, 1))], 1)
        self.template = template.read_bytes()
        for number in range(users):
            self.add_idle(DatabaseId(UserId(f"user{number:06}"), DatabaseKind.COLLECTION))
            self.change(DatabaseId(UserId(f"user{number:06}"), DatabaseKind.MEDIA), number)

    def _databases(self, heads: Any, objects: Any, name: str) -> DatabaseStore:
        return DatabaseStore(
            heads, objects, self.folder / name, offload=run_inline, clock_ms=self.clock, nonce=self.nonce,
            configure=lambda _: None, limits=Limits(),
        )  # fmt: skip

    def add_idle(self, database: DatabaseId) -> None:
        """A database of one version, whose content nobody asks for."""
        now_ms = self.clock()
        entry = ChainEntry(
            EntryKind.SNAPSHOT, 1, 1, 0, self.nonce(), 1, bytes(32), 4096, 1, 0, ("c",), now_ms
        )  # fmt: skip
        self.objects.put(keys.entry_key(database, entry), b"x")
        update = HeadUpdate(
            token=0, base_version=0, session_id=None, seq=0, commit_id="c", answer=b"", time_ms=now_ms,
            stamps={}, entry=entry,
        )  # fmt: skip
        self.heads.advance_head(database, update)

    def change(self, database: DatabaseId, number: int) -> None:
        """One commit of a file."""
        head = self.databases.head(database)
        commit = Commit(self.nonce(), b"", self.clock(), {}, None)
        facts = FileFacts(bytes(20), number.to_bytes(32, "big"), 0, 1)
        name = f"{self.nonce()}.jpg"
        if head.version == 0:
            path = self.folder / "index"
            path.write_bytes(self.template)
            self.databases.replace(database, head, path, commit)
            return
        checkout = self.databases.checkout(database, head)
        checkout.begin()
        MediaIndex(checkout.connection).apply([(name, facts)], self.clock() // 1000)
        self.databases.commit(checkout, head, commit)
        self.databases.release(checkout)

    def run(self, label: str, **options: Any) -> float:
        """Maintain, and print what it took; seconds."""
        self.calls.clear()
        start = time.perf_counter()
        summary = self.maintenance.run(**options)
        seconds = time.perf_counter() - start
        assert not summary.refused, summary.refused
        print(f"{label}: {seconds:.1f} s, {sum(self.calls.values())} calls, {summary}")
        print("   ", dict(self.calls))
        return seconds


def main() -> None:
    """The full run first, then one after the changes."""
    users, changed = [int(word) for word in (*sys.argv[1:], "10000", "100")[:2]]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), users)
        store.clock.behind_ms -= 3 * DAY_MS
        print(f"{users} users")
        store.run("full run")
        store.clock.behind_ms -= 3 * DAY_MS
        for number, _ in itertools.product(range(changed), range(COMMITS)):
            store.change(DatabaseId(UserId(f"user{number:06}"), DatabaseKind.MEDIA), 10_000_000 + number)
        store.run(f"{changed} users changed")
        store.databases.close()
        store.pool.shutdown()


if __name__ == "__main__":
    main()
