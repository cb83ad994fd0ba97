"""The conflict rule for cards and notes. Used by `cards` and `notes`.

    the stored row        the incoming row is
    does not exist        written
    seen by the client    written
    not seen              written if its `mod` is later than the stored row's

A row of the client is "seen" by itself: the rule decides only about changes of other devices.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from storage.collection.records import Row
from storage.collection.schema import PENDING_ON_CLIENT

_HIGHEST = 2**63 - 1


def newest(
    incoming: Iterable[Row], ours: dict[int, tuple[Any, ...]], min_usn: int, mod_at: int, usn_at: int
) -> list[Row]:
    """The rows to write; if an id comes several times, the rule is applied to each in turn.

    `ours`: id -> stored row, which begins with `(id, usn, mod)`. `mod_at`, `usn_at`: index of these
    columns in an incoming row.
    """
    # A row is unseen if `schema.pending_clause` holds for it.
    highest = PENDING_ON_CLIENT if min_usn == PENDING_ON_CLIENT else _HIGHEST
    writes: dict[int, Row] = {}
    for row in incoming:
        row_id = row[0]
        # The id was in an earlier row of this chunk: compare with that one.
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
