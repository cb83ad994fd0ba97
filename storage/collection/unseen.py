"""Reads the rows of a committed version that a client has not seen. Used by `app.sync.session`.

It writes nothing, although the official server reads after it has applied the client's deletions and
unburied cards. The result is the same: rows that the client has deleted in this sync are left out, and
buried cards get the queue that unburying gives them.
"""

from __future__ import annotations

import apsw

from storage.collection import unbury
from storage.collection.engine.codec import Codec
from storage.collection.records import (
    Changes,
    Chunk,
    ChunkIds,
    ChunkPosition,
    Graves,
    Row,
    RowPosition,
)
from storage.collection.schema import id_list, pending_clause
from storage.collection.tables import (
    cards,
    config,
    deck_configs,
    decks,
    graves,
    notes,
    notetypes,
    revlog,
    tags,
)

_HIGHEST = 2**63 - 1


class Unseen:
    """Reads over a connection that `schema.configure` has set up.

    `min_usn` is the lowest USN that the client has not seen. `deleted` are the client's own deletions,
    `now_s` is the time of the sync's start.
    """

    def __init__(
        self, connection: apsw.Connection, codec: Codec, min_usn: int, deleted: Graves, now_s: int
    ) -> None:
        self._connection, self._codec, self._min_usn = connection, codec, min_usn
        self._deleted = deleted
        self._unburying = unbury.plan(connection, now_s)

    def graves(self) -> Graves:
        """Deletions that the client has not seen."""
        return graves.pending(self._connection, self._min_usn)

    def changes(self, *, with_config: bool) -> Changes:
        """Notetypes, decks, deck options and tags; config and time of creation if `with_config`."""
        db, min_usn = self._connection, self._min_usn
        gone = set(self._deleted.decks)
        return Changes(
            models=notetypes.pending(db, self._codec, min_usn),
            decks=[deck for deck in decks.pending(db, self._codec, min_usn) if deck["id"] not in gone],
            configs=deck_configs.pending(db, self._codec, min_usn),
            tags=tags.pending(db, min_usn),
            # With the keys that unburying is going to write.
            conf=config.read_all(db) | self._unburying.config if with_config else None,
            crt=db.execute("SELECT crt FROM col").get if with_config else None,
        )

    def chunk_ids(self, behind: ChunkPosition, limit: int) -> ChunkIds:
        """Ids of at most `limit` rows of each kind that come after a position."""
        return ChunkIds(
            revlog=self._ids("revlog", behind.revlog, [], limit),
            cards=self._ids("cards", behind.cards, self._deleted.cards, limit),
            notes=self._ids("notes", behind.notes, self._deleted.notes, limit),
        )

    def _ids(self, table: str, behind: RowPosition | None, deleted: list[int], limit: int) -> list[int]:
        """Ids after a position, by descending USN, then descending id.

        Two ranges of the USN index (the rest of the position's USN, then lower USNs), as SQLite does not
        search it by a pair of USN and id. The index is named, since after ANALYZE of a table with one USN
        SQLite would scan the table.
        """
        # Without a position all rows are after it.
        usn, row_id = behind or (_HIGHEST, _HIGHEST)
        rest = f"{table} INDEXED BY ix_{table}_usn WHERE {pending_clause(self._min_usn)}1"
        if deleted:
            rest += " AND id NOT IN (SELECT value FROM json_each(?5))"
        found = self._connection.execute(
            f"SELECT * FROM (SELECT id FROM {rest} AND usn = ?2 AND id < ?3 ORDER BY id DESC LIMIT ?4) "  # noqa: S608
            f"UNION ALL SELECT * FROM (SELECT id FROM {rest} AND usn < ?2 "
            "ORDER BY usn DESC, id DESC LIMIT ?4) LIMIT ?4",
            (self._min_usn, usn, row_id, limit, *([id_list(deleted)] if deleted else ())),
        )
        return [found_id for (found_id,) in found]

    def read_chunk(self, ids: ChunkIds) -> Chunk:
        """The rows with these ids, in this order."""
        db = self._connection
        read_cards: list[Row] = cards.read(db, ids.cards) if ids.cards else []
        if self._unburying.is_due:
            read_cards = [unbury.unburied(card) for card in read_cards]
        return Chunk(
            revlog=revlog.read(db, ids.revlog) if ids.revlog else [],
            cards=read_cards,
            notes=notes.read(db, ids.notes) if ids.notes else [],
        )
