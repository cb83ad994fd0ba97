"""Sets up connections for Anki's tables, and defines which rows are pending (not seen by the other side)."""

from __future__ import annotations

import json
from collections.abc import Iterable

import apsw

PENDING_ON_CLIENT = -1
"""The USN of rows that a client has changed and not sent yet; a server must not have such rows."""


def configure(connection: apsw.Connection) -> None:
    """Register the collation of deck, notetype and tag names."""
    connection.create_collation("unicase", compare_unicase)


def compare_unicase(left: str, right: str) -> int:
    """Order by full case folding, as the engine's `unicase` does."""
    a, b = left.casefold(), right.casefold()
    return (a > b) - (a < b)


def pending_clause(min_usn: int) -> str:
    """The condition on `usn` for rows that the other side has not seen; takes `min_usn`."""
    return "usn = ?" if min_usn == PENDING_ON_CLIENT else "usn >= ?"


def id_list(ids: Iterable[int]) -> str:
    """The ids as one value to bind, from which `json_each` gives them in this order."""
    return json.dumps(list(ids))
