"""Head records that this worker got as the answers of its own writes, so that it need not read them again.

Only a saving: whatever is done on the word of such a record is guarded by a conditional write, and is done
again on a fresh one if another worker has served the sync meanwhile. Where that is usual, as behind a
proxy that spreads the requests of a sync over workers, doing things twice would cost more than reading.
"""

from __future__ import annotations

from collections import OrderedDict

from storage.types import DatabaseId, Head

_ENOUGH = 20
"""So many steps in a row without a sign of other workers, and records are used."""
_MOST = 512
_WRITES_A_STEP = 2
"""A step appends an entry, and may fold the journal."""


class KnownHeads:
    """The records of running syncs, the latest of each database."""

    def __init__(self) -> None:
        self._heads: OrderedDict[DatabaseId, Head] = OrderedDict()
        self._undisturbed = _ENOUGH

    def find(self, database: DatabaseId, session_id: str) -> Head | None:
        """The record, if it is worth a try."""
        head = self._heads.get(database)
        if head is None or self._undisturbed < _ENOUGH:
            return None
        return head if head.session is not None and head.session.id == session_id else None

    def started(self, database: DatabaseId, head: Head) -> None:
        """Keep the record of a sync that was begun here."""
        self._keep(database, head)

    def appended(self, database: DatabaseId, head: Head) -> None:
        """Keep the record after a step, and see whether the step before it was served here too."""
        before, after = self._heads.get(database), head.session
        is_own = (
            before is not None
            and before.session is not None
            and after is not None
            and before.session.id == after.id
            and before.session.seq < after.seq <= before.session.seq + _WRITES_A_STEP
        )
        self._undisturbed = min(self._undisturbed + 1, _ENOUGH) if is_own else 0
        self._keep(database, head)

    def updated(self, database: DatabaseId, head: Head) -> None:
        """Keep the record after a guarded write."""
        self._keep(database, head)

    def forget(self, database: DatabaseId) -> None:
        """Read the record the next time."""
        self._heads.pop(database, None)

    def _keep(self, database: DatabaseId, head: Head) -> None:
        self._heads[database] = head
        self._heads.move_to_end(database)
        if len(self._heads) > _MOST:
            self._heads.popitem(last=False)
