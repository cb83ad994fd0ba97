"""The rule by which incoming cards and notes meet ours: an unseen change of ours yields to a newer one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from storage.collection.records import Row
from storage.collection.schema import PENDING_ON_CLIENT

_HIGHEST = 2**63 - 1


def newest(
    incoming: Iterable[Row], ours: dict[int, tuple[Any, ...]], min_usn: int, mod_at: int, usn_at: int
) -> list[Row]:
    """The rows to write, the last one of each id.

    `ours` maps the ids that exist to rows that begin with `(id, usn, mod)`.
    """
    # a row is pending as `schema.pending_clause` has it
    highest = PENDING_ON_CLIENT if min_usn == PENDING_ON_CLIENT else _HIGHEST
    writes: dict[int, Row] = {}
    for row in incoming:
        row_id = row[0]
        if row_id in writes:
            usn, mod = writes[row_id][usn_at], writes[row_id][mod_at]
        elif row_id in ours:
            _, usn, mod, *_ = ours[row_id]
        else:
            writes[row_id] = row
            continue
        if mod < row[mod_at] or not min_usn <= usn <= highest:
            writes[row_id] = row
    return list(writes.values())
