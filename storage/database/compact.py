"""Keeps chains short: deltas of single commits are merged, long or heavy chains become a new snapshot.

A commit or a start that comes between wins, and the work of the compaction is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from storage.database import keys
from storage.database.commit import CommitMaker, Made
from storage.database.history import History
from storage.database.image import Image
from storage.database.limits import Limits
from storage.database.pages import PageParser
from storage.errors import Corrupt, HeadMoved
from storage.heads.base import HeadStore
from storage.objects.base import ObjectStore
from storage.types import ChainEntry, DatabaseId, EntryKind, Head, Offload

SNAPSHOT = 0
"""As the start of a plan: everything."""


def plan(chain: tuple[ChainEntry, ...], limits: Limits) -> int | None:
    """Index of the first entry to fold with all behind it: SNAPSHOT, a delta's, or None."""
    if len(chain) < 2:
        return None
    deltas = chain[1:]
    stored = sum(entry.size_bytes for entry in deltas)
    if len(deltas) >= limits.chain_deltas or 100 * stored > limits.snapshot_percent * chain[0].size_bytes:
        return SNAPSHOT
    start = len(chain)
    while start > 1 and _is_of_one_commit(chain[start - 1], chain[start - 2]):
        start -= 1
    return start if len(chain) - start >= limits.merge_deltas else None


def _is_of_one_commit(entry: ChainEntry, before: ChainEntry) -> bool:
    """A commit's delta leads on by one version; a merged one by several. Both may reach further back."""
    return entry.last == before.last + 1


class Compactor:
    """Folds the end of a chain into one object."""

    def __init__(  # noqa: PLR0913  # one constructor call, in the facade
        self,
        heads: HeadStore,
        objects: ObjectStore,
        history: History,
        commits: CommitMaker,
        *,
        offload: Offload[Any],
        nonce: Callable[[], str],
    ) -> None:
        self._heads, self._objects, self._history, self._commits = heads, objects, history, commits
        self._offload, self._nonce = offload, nonce

    def fold(
        self, database: DatabaseId, head: Head, start: int, image: Image, put: Callable[[Made], None]
    ) -> bool:
        """Replace `head.chain[start:]` by one object of `image`, which is at the head's version.

        False when somebody else was first. Raises: Corrupt, when the image is not the head's.
        """
        entry = _folded(head, start, self._nonce())
        if start == SNAPSHOT:
            made: Made = self._offload(lambda: self._commits.snapshot(image, entry))
        else:
            numbers = self._page_numbers(database, head.chain[start:])
            parent = head.chain[start - 1].checksum
            made = self._offload(lambda: self._commits.merged(image, numbers, entry, parent))
        if made.entry.checksum != head.checksum:
            raise Corrupt(str(database), f"{head.checksum:016x}", f"{made.entry.checksum:016x}")
        put(made)
        self._history.record(database, head, self._nonce())
        chain = (*head.chain[:start], made.entry)
        try:
            self._heads.replace_chain(database, head.token, head.chain_revision, chain)
        except HeadMoved:
            return False
        return True

    def _page_numbers(self, database: DatabaseId, entries: tuple[ChainEntry, ...]) -> list[int]:
        """The pages of the last entry's version that any of the entries changed."""
        found: set[int] = set()
        for entry in entries:
            parser = PageParser(keys.entry_key(database, entry), entry)
            for piece in self._objects.stream(keys.entry_key(database, entry)):
                for numbers, _ in parser.feed(piece):
                    found.update(numbers)
            parser.finish()
        return sorted(number for number in found if number <= entries[-1].page_count)


def _folded(head: Head, start: int, nonce: str) -> ChainEntry:
    """What stands for the end of a chain. It keeps the id of its last commit alone.

    A lost answer is told from the last commits that a head keeps by themselves; with the ids of all that
    was folded, the head would be twice as large, and cost as much more each time it is read or written.
    """
    folded = head.chain[start:]
    return msgspec.structs.replace(
        folded[-1],
        kind=EntryKind.SNAPSHOT if start == SNAPSHOT else EntryKind.DELTA,
        first=head.version if start == SNAPSHOT else head.chain[start - 1].last + 1,
        token=head.token,
        nonce=nonce,
        commit_ids=folded[-1].commit_ids[-1:],
    )
