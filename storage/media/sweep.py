"""Deleting the blobs that no retained version of any user's media names.

Refuses to guess: every index is read before the first blob goes, and what is not known for a blob
by its key is left alone. The newest version of an index tells what the older ones held, too.

Why an upload and a sweep cannot lose a blob between them: an upload relies on a blob that is there
only if it is younger than half the grace (`Blobs.fresh_ms`), else it writes it again. A sweep deletes
only what was older than the whole grace when its marking began. So a blob relied upon shortly
before or during a sweep is too young for it, and one relied upon longer ago is named by a version
that the marking sees. What is left is an upload that rewrites an old blob just when the sweep
deletes it; each is looked at once more right before.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import msgspec

from storage.database.store import DatabaseStore
from storage.media.blobs import PREFIX, key_of
from storage.media.index import GONE_KEPT_S, MediaIndex
from storage.objects.base import ObjectStat, ObjectStore
from storage.types import DatabaseId, DatabaseKind, Offload

_AT_ONCE = 500
_CLOCKS_MS = 24 * 3600 * 1000
"""More than the clocks of two workers can ever be apart."""

_DIGITS = 64


class Swept(msgspec.Struct, frozen=True):
    """What one sweep found and did."""

    kept: int
    """Blobs that are named by an index, or too young to tell."""
    deleted: int
    deleted_bytes: int


class _Marks:
    """The set of live contents, in a file: it may be larger than memory."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path))
        self._connection.pragma("journal_mode", "off")
        self._connection.pragma("synchronous", "off")
        self._connection.execute("CREATE TABLE live (key TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, index: MediaIndex, since_s: int) -> None:
        with self._connection as connection:
            keys = ((key_of(sha256),) for sha256 in index.contents_since(since_s))
            connection.executemany("INSERT OR IGNORE INTO live VALUES (?)", keys)

    def unmarked(self, stats: Iterable[ObjectStat]) -> list[ObjectStat]:
        return [stat for stat in stats if not self._has(stat.key)]

    def _has(self, key: str) -> bool:
        return self._connection.execute("SELECT 1 FROM live WHERE key = ?", (key,)).fetchone() is not None

    def close(self) -> None:
        self._connection.close()


def sweep_blobs(  # noqa: PLR0913 - collaborators by name
    objects: ObjectStore,
    indexes: Iterable[MediaIndex],
    *,
    clock_ms: Callable[[], int],
    grace_ms: int,
    history_ms: int,
    scratch: Path,
    offload: Offload[Any],
) -> Swept:
    """Delete blobs that none of `indexes` has named within `history_ms` and that are older than `grace_ms`.

    `indexes` must yield the newest version of every user's media database, and must look for
    them only while it is iterated: what is committed before that is marked, what comes later is
    young. An exception out of it ends the sweep with nothing deleted.
    """
    started_ms = clock_ms()
    since_s = (started_ms - history_ms - _CLOCKS_MS) // 1000
    if history_ms + _CLOCKS_MS > GONE_KEPT_S * 1000:
        raise ValueError(f"a history of {history_ms} ms is longer than the media indexes remember")
    with tempfile.TemporaryDirectory(dir=scratch, prefix="marks-") as folder:
        marks: _Marks = offload(lambda: _Marks(Path(folder, "live")))
        with closing(marks):
            for index in indexes:
                offload(partial(marks.add, index, since_s))
            return _sweep(objects, marks, started_ms - grace_ms, offload)


def newest_indexes(store: DatabaseStore, databases: Iterable[DatabaseId]) -> Iterator[MediaIndex]:
    """The media indexes among `databases` (lazy, as `HeadStore.list` gives them), one at a time."""
    for database in databases:
        if database.kind == DatabaseKind.MEDIA and (head := store.head(database)).version:
            checkout = store.checkout(database, head)
            try:
                yield MediaIndex(checkout.connection)
            finally:
                store.release(checkout)


def _sweep(objects: ObjectStore, marks: _Marks, before_ms: int, offload: Offload[Any]) -> Swept:
    kept = deleted = deleted_bytes = 0
    for page in _pages(objects.list(PREFIX)):
        old = [stat for stat in page if _is_old(stat, before_ms)]
        dead: list[ObjectStat] = offload(partial(marks.unmarked, old))
        dead = [stat for stat in dead if (now := objects.find(stat.key)) and _is_old(now, before_ms)]
        objects.delete([stat.key for stat in dead])
        kept += len(page) - len(dead)
        deleted += len(dead)
        deleted_bytes += sum(stat.size_bytes for stat in dead)
    return Swept(kept, deleted, deleted_bytes)


def _is_old(stat: ObjectStat, before_ms: int) -> bool:
    return stat.modified_ms < before_ms and _is_blob(stat.key)


def _is_blob(key: str) -> bool:
    digits = key.removeprefix(PREFIX)
    return len(digits) == _DIGITS and set(digits) <= set("0123456789abcdef")


def _pages(stats: Iterator[ObjectStat]) -> Iterator[list[ObjectStat]]:
    while page := list(itertools.islice(stats, _AT_ONCE)):
        yield page
