"""Shortens chains: merges deltas of single commits into one, or replaces the whole chain by a new snapshot.

Called by `storage.database.store`. The version does not change. Compaction does not block other writers: if a
commit or the start of a sync happens meanwhile, its conditional write fails and the result is dropped.

    before    [s 9] [d 10-25] [d 26] [d 27] ... [d 41]
    merged    [s 9] [d 10-25] [d 26-41]                   plan = 2
    snapshot  [s 41]                                      plan = SNAPSHOT
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from storage.database.commit import CommitMaker, StoredObject
from storage.database.format import keys
from storage.database.format.pages import PageParser
from storage.database.history import History
from storage.database.limits import Limits
from storage.database.local.image import Image
from storage.errors import Corrupt, HeadMoved
from storage.heads.base import HeadStore
from storage.objects.base import ObjectStore
from storage.types import ChainEntry, DatabaseId, EntryKind, Head, Offload

SNAPSHOT = 0
"""The plan that replaces the whole chain."""


def plan(chain: tuple[ChainEntry, ...], limits: Limits) -> int | None:
    """Index of the first entry to replace, with all after it, by one object; None if the chain is short."""
    if len(chain) < 2:
        return None
    deltas = chain[1:]
    stored = sum(entry.size_bytes for entry in deltas)
    if len(deltas) >= limits.chain_deltas or 100 * stored > limits.snapshot_percent * chain[0].size_bytes:
        return SNAPSHOT
    start = len(chain)
    # Count the deltas of single commits at the end of the chain.
    while start > 1 and _is_of_one_commit(chain[start - 1], chain[start - 2]):
        start -= 1
    return start if len(chain) - start >= limits.merge_deltas else None


def _is_of_one_commit(entry: ChainEntry, before: ChainEntry) -> bool:
    # Merged deltas add several versions to the chain. `first` does not tell: cumulative deltas reach back.
    return entry.last == before.last + 1


class Compactor:
    """Replaces the end of a chain by one object."""

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
        self, database: DatabaseId, head: Head, start: int, image: Image, put: Callable[[StoredObject], None]
    ) -> bool:
        """Replace `head.chain[start:]` by one object made from `image`, which is at the head's version.

        Returns False if another writer changed the head meanwhile. Raises: Corrupt if the image differs from
        the head's checksum.
        """
        entry = _folded(head, start, self._nonce())
        if start == SNAPSHOT:
            made: StoredObject = self._offload(lambda: self._commits.snapshot(image, entry))
        else:
            numbers = self._page_numbers(database, head.chain[start:])
            parent = head.chain[start - 1].checksum
            made = self._offload(lambda: self._commits.merged_delta(image, numbers, entry, parent))
        # Checked before anything is stored: the local copy could be damaged.
        if made.entry.checksum != head.checksum:
            raise Corrupt(str(database), f"{head.checksum:016x}", f"{made.entry.checksum:016x}")
        put(made)
        # Before the head update: an object of the old chain always has a reference, in the head or in the
        # history.
        self._history.record(database, head, self._nonce())
        chain = (*head.chain[:start], made.entry)
        try:
            self._heads.replace_chain(database, head.token, head.chain_revision, chain)
        except HeadMoved:
            return False
        return True

    def _page_numbers(self, database: DatabaseId, entries: tuple[ChainEntry, ...]) -> list[int]:
        """The pages that any of the entries changed and that still exist at the last one's version."""
        found: set[int] = set()
        for entry in entries:
            parser = PageParser(keys.entry_key(database, entry), entry)
            for piece in self._objects.stream(keys.entry_key(database, entry)):
                for numbers, _ in parser.feed(piece):
                    # Only the numbers: the contents come from the image, which is at the last version.
                    found.update(numbers)
            parser.finish()
        return sorted(number for number in found if number <= entries[-1].page_count)


def _folded(head: Head, start: int, nonce: str) -> ChainEntry:
    """The entry of the new object. It keeps only the id of the last commit that it covers.

    Lost answers are found in `Head.recent`. Keeping the ids of all commits would double the size of the head,
    and the cost of reading and writing it.
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
