"""Deletes the blobs to which no retained version of any media index refers. Called by `app.maintenance`.

It has two phases: mark (all indexes are read; the newest version of an index also has the contents of
earlier ones), then sweep (blobs are listed and deleted). Objects whose key is not that of a blob are left
alone.

Why an upload and a sweep that run at the same time cannot lose a blob:

    age of the blob when marking begins       0 ------ grace / 2 ------ grace ------->
    an upload of the same content             relies   writes it again
    the sweep                                 keeps it                  deletes it, if it is not marked

An upload relies on an existing blob only if it is younger than half the grace (`Blobs.fresh_ms`). So a
blob on which an upload relied shortly before or during a sweep is too young to be deleted, and one on
which it relied earlier is marked, as the version that refers to it has been committed by then. The
remaining case is an upload that writes an old blob again while the sweep deletes it:
`ObjectStore.delete_old` does not delete that one. All ages are by the store's clock.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import msgspec

from storage.database.store import Checkout, DatabaseStore
from storage.errors import Corrupt, DeletionUnsafe, NotFound, StorageError
from storage.media.blobs import PREFIX, key_of
from storage.media.index import GONE_KEPT_S, MediaIndex
from storage.objects.base import ObjectStat, ObjectStore
from storage.types import EMPTY_HEAD, DatabaseId, Offload

_AT_ONCE = 500
_CLOCKS_MS = 24 * 3600 * 1000
"""More than the clocks of two workers can differ."""

_DIGITS = 64
_OLDER_TRIED = 8
"""Earlier versions of an index that are tried if the newest one cannot be read."""

log = logging.getLogger("ankisyncd.upkeep")


class Swept(msgspec.Struct, frozen=True):
    """What one sweep found and did."""

    named: int
    """Contents to which an index refers."""
    kept: int
    """Blobs to which an index refers, or that are too young."""
    deleted: int
    deleted_bytes: int
    unreadable: int = 0
    """Databases of which only an earlier version could be read."""


class Contents(msgspec.Struct, frozen=True):
    """The contents to which one user's index refers."""

    sha256s: Sequence[bytes]
    until_ms: int | None = None
    """If set, contents added after this time are unknown, as an earlier version was read."""


class _Marks:
    """The set of marked contents, in an SQLite file, as it may be larger than memory."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path))
        self._connection.pragma("journal_mode", "off")
        self._connection.pragma("synchronous", "off")
        self._connection.execute("CREATE TABLE live (key TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, sha256s: Sequence[bytes]) -> None:
        with self._connection as connection:
            keys = ((key_of(sha256),) for sha256 in sha256s)
            connection.executemany("INSERT OR IGNORE INTO live VALUES (?)", keys)

    def count(self) -> int:
        found: Any = self._connection.execute("SELECT count(*) FROM live").get
        return int(found)

    def unmarked(self, stats: Iterable[ObjectStat]) -> list[ObjectStat]:
        return [stat for stat in stats if not self._has(stat.key)]

    def _has(self, key: str) -> bool:
        return self._connection.execute("SELECT 1 FROM live WHERE key = ?", (key,)).fetchone() is not None

    def close(self) -> None:
        self._connection.close()


def names_since_s(now_ms: int, history_ms: int) -> int:
    """Contents to which an index has referred at this time or later must be kept."""
    if history_ms + _CLOCKS_MS > GONE_KEPT_S * 1000:
        raise ValueError(f"a history of {history_ms} ms is longer than the media indexes remember")
    return (now_ms - history_ms - _CLOCKS_MS) // 1000


def sweep_blobs(  # noqa: PLR0913 - collaborators by name
    objects: ObjectStore,
    contents: Iterable[Contents],
    *,
    now_ms: int,
    grace_ms: int,
    scratch: Path,
    offload: Offload[Any],
    least_named: int = 0,
) -> Swept:
    """Delete blobs that are not among `contents` and that are older than `grace_ms`.

    `now_ms` is the time by the store's clock before anything is read (see `storage.objects.now`).
    `contents` must give, for every user, the contents to which the index has referred since
    `names_since_s`; and it must read them while it is iterated, not before: later commits rely on young
    blobs only. If it raises, nothing is deleted.

    Raises: DeletionUnsafe if there are fewer than `least_named` contents, as indexes may be lost.
    """
    before_ms, unreadable = now_ms - grace_ms, 0
    with tempfile.TemporaryDirectory(dir=scratch, prefix="marks-") as folder:
        marks: _Marks = offload(lambda: _Marks(Path(folder, "live")))
        with closing(marks):
            for known in contents:
                offload(partial(marks.add, known.sha256s))
                if known.until_ms is not None:
                    # Blobs that the unknown later versions refer to are younger than this.
                    before_ms = min(before_ms, known.until_ms - grace_ms - _CLOCKS_MS)
                    unreadable += 1
            named: int = offload(marks.count)
            if named < least_named:
                raise DeletionUnsafe(
                    f"only {named} contents are named, less than half of those at the last full run"
                )
            kept, deleted, deleted_bytes = _sweep(objects, marks, before_ms, offload)
            return Swept(named, kept, deleted, deleted_bytes, unreadable)


def read_contents(
    store: DatabaseStore, database: DatabaseId, since_s: int, offload: Offload[Any], *, is_doubtful: bool
) -> Contents:
    """The contents to which a media index has referred since a time, by its newest version that can be read.

    `is_doubtful`: the head may have been restored from an older copy. If the newest version cannot be
    read, or if the head is doubtful, all contents in the version's table `gone` count, whatever their
    time. If no version can be read, raises the error of reading the newest one.
    """
    head = EMPTY_HEAD
    try:
        head = store.head(database)
        if head.version == 0 and not is_doubtful:
            return Contents(())
        if head.version:
            checkout = store.checkout(database, head)
            # A newer version may have existed: count everything that this one has ever had.
            if is_doubtful:
                return Contents(_names(store, checkout, 0, offload), head.chain[-1].time_ms)
            return Contents(_names(store, checkout, since_s, offload))
        failure: StorageError = NotFound(f"{database} has objects but no head record")
    except (Corrupt, NotFound) as exc:
        log.exception("the media index of %s cannot be read", database)
        failure = exc
    for point in reversed(store.history(database, head)[-_OLDER_TRIED:]):
        with contextlib.suppress(Corrupt, NotFound):
            checkout = store.checkout_restore_point(database, point)
            return Contents(_names(store, checkout, 0, offload), point.time_ms)
    raise failure


def _names(store: DatabaseStore, checkout: Checkout, since_s: int, offload: Offload[Any]) -> list[bytes]:
    """Read the contents from a checkout, and discard it. Raises: Corrupt."""
    try:
        names: list[bytes] = offload(lambda: list(MediaIndex(checkout.connection).contents_since(since_s)))
    except apsw.Error as exc:
        store.distrust(checkout)
        raise Corrupt(str(checkout.database), "a sound media index", str(exc)) from exc
    except BaseException:
        store.discard(checkout)
        raise
    store.discard(checkout)
    return names


def _sweep(
    objects: ObjectStore, marks: _Marks, before_ms: int, offload: Offload[Any]
) -> tuple[int, int, int]:
    """(blobs kept, blobs deleted, bytes deleted)."""
    kept = deleted = deleted_bytes = 0
    for page in _pages(objects.list(PREFIX)):
        # Only old blobs are looked up in the marks, which is the slow part.
        old = [stat for stat in page if _is_old(stat, before_ms)]
        dead: list[ObjectStat] = offload(partial(marks.unmarked, old))
        # Checks the age again, right before each delete.
        gone = set(objects.delete_old([stat.key for stat in dead], before_ms))
        kept += len(page) - len(gone)
        deleted += len(gone)
        deleted_bytes += sum(stat.size_bytes for stat in dead if stat.key in gone)
    return kept, deleted, deleted_bytes


def _is_old(stat: ObjectStat, before_ms: int) -> bool:
    return stat.modified_ms < before_ms and _is_blob(stat.key)


def _is_blob(key: str) -> bool:
    digits = key.removeprefix(PREFIX)
    return len(digits) == _DIGITS and set(digits) <= set("0123456789abcdef")


def _pages(stats: Iterator[ObjectStat]) -> Iterator[list[ObjectStat]]:
    while page := list(itertools.islice(stats, _AT_ONCE)):
        yield page
