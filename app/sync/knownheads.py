"""A cache of head records, which this worker got as answers of its own writes. Used by `session`.

A cached record may be outdated, if another worker has served the sync meanwhile. So it is used only for
steps that end with a conditional write: if that fails, the step is done again with a record that is read.
Behind a proxy that spreads the requests of a sync over workers, that would happen often, so the cache is
used only after a number of steps without a sign of other workers.
"""

from __future__ import annotations

from collections import OrderedDict

from storage.types import DatabaseId, Head

_ENOUGH = 20
"""After this number of steps in a row without a sign of other workers, cached records are used."""
_MOST = 512
_WRITES_A_STEP = 2
"""A step appends an entry, and may also fold the journal."""


class KnownHeads:
    """The latest record of each database with a running sync, up to `_MOST`."""

    def __init__(self) -> None:
        self._heads: OrderedDict[DatabaseId, Head] = OrderedDict()
        self._undisturbed = _ENOUGH

    def find(self, database: DatabaseId, session_id: str) -> Head | None:
        """The cached record of this session, or None if it should be read."""
        head = self._heads.get(database)
        if head is None or self._undisturbed < _ENOUGH:
            return None
        return head if head.session is not None and head.session.id == session_id else None

    def started(self, database: DatabaseId, head: Head) -> None:
        """Cache the record after the start of a sync."""
        self._keep(database, head)

    def appended(self, database: DatabaseId, head: Head) -> None:
        """Cache the record after a step; its `seq` shows whether the step before was served here, too."""
        before, after = self._heads.get(database), head.session
        is_own = (
            before is not None
            and before.session is not None
            and after is not None
            and before.session.id == after.id
            # More writes than one step makes: another worker has written in between.
            and before.session.seq < after.seq <= before.session.seq + _WRITES_A_STEP
        )
        self._undisturbed = min(self._undisturbed + 1, _ENOUGH) if is_own else 0
        self._keep(database, head)

    def updated(self, database: DatabaseId, head: Head) -> None:
        """Cache the record after a conditional write to the session."""
        self._keep(database, head)

    def forget(self, database: DatabaseId) -> None:
        """Remove the record, so that it is read the next time."""
        self._heads.pop(database, None)

    def _keep(self, database: DatabaseId, head: Head) -> None:
        self._heads[database] = head
        self._heads.move_to_end(database)
        if len(self._heads) > _MOST:
            self._heads.popitem(last=False)
