"""Prints the time of checkout, commit, reading and whole-file steps for a small and a large database.

python -m tests.bench.storage_commit [folder]
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import apsw

from storage.database.commit import Commit
from storage.database.limits import Limits
from storage.database.store import DatabaseStore
from storage.heads.memory import MemoryHeadStore
from storage.objects.local import LocalObjectStore
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline

DATABASE = DatabaseId(UserId("bench"), DatabaseKind.COLLECTION)
SIZES = {"small": 15_000, "large": 860_000}


@contextlib.contextmanager
def timed(label: str, rounds: int = 1):
    start = time.perf_counter()
    yield
    print(f"  {label:<44}{(time.perf_counter() - start) / rounds * 1000:10.2f} ms")


def make(path: Path, cards: int) -> None:
    """Tables and indexes shaped like a collection's: cards, and a review log of several rows a card."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").fetchall()
    connection.execute(
        "CREATE TABLE cards (id INTEGER PRIMARY KEY, nid, did, usn, due, ivl, factor, text);"
        "CREATE INDEX cards_usn ON cards (usn); CREATE INDEX cards_due ON cards (did, due);"
        "CREATE TABLE revlog (id INTEGER PRIMARY KEY, cid, usn, ease, ivl);"
        "CREATE INDEX revlog_cid ON revlog (cid); CREATE INDEX revlog_usn ON revlog (usn)"
    )
    noise = os.urandom(1 << 16).hex()
    with connection:
        connection.executemany(
            "INSERT INTO cards VALUES (?, ?, 1, 5, ?, 10, 2500, ?)",
            ((n, n, n * 7 % 3000, noise[n * 37 % 130_000 :][: 60 + n % 90]) for n in range(cards)),
        )
        connection.executemany(
            "INSERT INTO revlog VALUES (?, ?, 5, 3, 10)",
            ((1_600_000_000_000 + n * 977, n * 7919 % cards) for n in range(cards * 2)),
        )
    connection.pragma("wal_checkpoint(TRUNCATE)")
    connection.close()


def review(connection: apsw.Connection, cards: int, count: int, seed: int) -> None:
    """What a sync of `count` reviews changes."""
    for n in range(count):
        card = (seed * 1_000_003 + n * 104_729) % cards
        connection.execute(
            "UPDATE cards SET usn = ?, due = due + 10, ivl = ivl + 1 WHERE id = ?", (seed + 6, card)
        )
        connection.execute(
            "INSERT INTO revlog VALUES (?, ?, ?, 3, 11)",
            (1_800_000_000_000 + seed * 1000 + n, card, seed + 6),
        )


class Bench:
    def __init__(self, root: Path, cards: int) -> None:
        self.root, self.cards, self.heads = root, cards, MemoryHeadStore()
        self.objects = LocalObjectStore(root / "store", run_inline)
        self.count = 0

    def nonce(self) -> str:
        self.count += 1
        return f"{self.count:08x}"

    def worker(self, folder: str) -> DatabaseStore:
        return DatabaseStore(
            self.heads,
            self.objects,
            self.root / folder,
            offload=run_inline,
            clock_ms=lambda: 0,
            nonce=self.nonce,
            configure=lambda connection: None,
            limits=Limits(),
        )

    def commit(self) -> Commit:
        return Commit(self.nonce(), b"", 0, {}, None)

    def run(self) -> None:
        store = self.worker("one")
        path = store.new_path(".upload")
        make(path, self.cards)
        print(f"  {path.stat().st_size / 1e6:.1f} MB")
        with timed("replace (snapshot)"):
            head = store.replace(DATABASE, store.head(DATABASE), path, self.commit())
        print(f"  snapshot {head.chain[0].size_bytes / 1e6:.1f} MB")
        for label, reviews in (("10 reviews", 10), ("100 reviews", 100)):
            with timed("checkout, base at hand (first of version)"):
                checkout = store.checkout(DATABASE, head)
            with timed(f"{label}: SQL"):
                checkout.begin()
                review(checkout.connection, self.cards, reviews, head.version)
            with timed(f"{label}: commit"):
                head = store.commit(checkout, head, self.commit())
            print(f"  delta {head.chain[-1].size_bytes / 1e3:.1f} KB")
            store.release(checkout)
        with timed("checkout, idle copy (100 times)", 100):
            for _ in range(100):
                store.release(store.checkout(DATABASE, head))
        other = self.worker("two")
        with timed("checkout, empty disk"):
            other.release(other.checkout(DATABASE, head))
        for _ in range(3):
            checkout = store.checkout(DATABASE, head)
            review(checkout.connection, self.cards, 20, head.version)
            head = store.commit(checkout, head, self.commit())
            store.release(checkout)
        with timed("checkout, idle copy 3 versions behind"):
            checkout = other.checkout(DATABASE, head)
        with timed("reader, all blocks"):
            size = sum(map(len, checkout.reader().blocks()))
        print(f"  {size / 1e6:.1f} MB read")
        other.release(checkout)
        checkout = other.checkout(DATABASE, head)
        with timed("fold the log into a new base"):
            other._assembler.fold(checkout)
        store.close()
        other.close()


def main() -> None:
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    for name, cards in SIZES.items():
        print(name)
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            Bench(Path(folder), cards).run()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
