"""The rule by which incoming cards and notes meet ours: an unseen change of ours yields to a newer one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from storage.collection.records import Row
from storage.collection.schema import is_pending


def newest(
    incoming: Iterable[Row], ours: dict[int, tuple[Any, ...]], min_usn: int, mod_at: int, usn_at: int
) -> list[Row]:
    """The rows to write, the last one of each id.

    `ours` maps the ids that exist to `(usn, mod, ...)`.
    """
    seen = {row_id: (row[0], row[1]) for row_id, row in ours.items()}
    writes: dict[int, Row] = {}
    for row in incoming:
        found = seen.get(row[0])
        if found is None or not is_pending(found[0], min_usn) or found[1] < row[mod_at]:
            writes[row[0]] = row
            seen[row[0]] = (row[usn_at], row[mod_at])
    return list(writes.values())
