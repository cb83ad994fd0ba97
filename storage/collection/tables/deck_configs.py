"""Reads and merges deck options: the newer one wins, and names need not be unique."""

from __future__ import annotations

from typing import Any

import apsw

from storage.collection.engine.codec import Codec, DeckConfigRow
from storage.collection.schema import pending_clause
from storage.collection.tally import Tally

_COLUMNS = "id, name, mtime_secs, usn, config"


def pending(connection: apsw.Connection, codec: Codec, min_usn: int) -> list[dict[str, Any]]:
    """The deck options that the client has not seen."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM deck_config WHERE {pending_clause(min_usn)} ORDER BY id",  # noqa: S608
        (min_usn,),
    )
    return codec.deck_config_dicts([DeckConfigRow(*row) for row in rows])


def merge(connection: apsw.Connection, codec: Codec, tally: Tally, configs: list[dict[str, Any]]) -> None:
    """Write each one, unless the stored one is newer. Raises: InvalidChange."""
    for row in codec.deck_config_rows(configs):
        ours = connection.execute("SELECT mtime_secs FROM deck_config WHERE id = ?", (row.id,)).get
        # The stored one is newer.
        if ours is not None and ours > row.mtime_secs:
            continue
        connection.execute("INSERT OR REPLACE INTO deck_config VALUES (?, ?, ?, ?, ?)", row)
        tally.saw_usn(row.usn)
        if ours is None:
            tally.add("deck_config", 1)
