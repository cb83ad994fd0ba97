"""Makes names of decks and notetypes unique. Used by `decks` and `notetypes`."""

from __future__ import annotations

from typing import Literal

import apsw

from storage.collection.errors import InvalidChange

_MOST_NAMESAKES = 100
"""Each attempt is a statement, and a client could send any number of decks of one name."""


def free_name(
    connection: apsw.Connection, table: Literal["decks", "notetypes"], row_id: int, name: str
) -> str:
    """The name, with "+" added until no other row has it; case is ignored. Raises: InvalidChange."""
    for _ in range(_MOST_NAMESAKES):
        holder = connection.execute(f"SELECT id FROM {table} WHERE name = ?", (name,)).get  # noqa: S608
        if holder in (None, row_id):
            return name
        name += "+"
    raise InvalidChange(f"more than {_MOST_NAMESAKES} {table} of one name")
