"""Merges a sync into a collection: the facade of this package for `app.sync.merge`. Reading is in `unseen`.

The caller opens the transaction, and rolls it back if a call raises.
"""

from __future__ import annotations

import apsw

from storage.collection import unbury
from storage.collection.engine.codec import Codec
from storage.collection.records import Changes, Chunk, Graves, Mark
from storage.collection.stamps import Stamps, carried_stamps
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
from storage.collection.tally import COUNTED, Tally, find_newest
from storage.collection.unbury import Unburying


class Collection:
    """A collection of schema 18 on a connection that `schema.configure` has set up.

    Results depend on arguments and tables only, not on a clock or on chance: merging the same journal into
    the same version again gives the same tables.
    """

    def __init__(self, connection: apsw.Connection, codec: Codec, stamps: Stamps) -> None:
        self._connection = connection
        self._codec = codec
        self._tally = Tally(stamps)

    @property
    def usn(self) -> int:
        """The USN that the changes of this sync get."""
        usn: int = self._connection.execute("SELECT usn FROM col").get
        return usn

    def plan_unburying(self, now_s: int) -> Unburying:
        """What `unbury` would do at this time; takes microseconds."""
        return unbury.plan(self._connection, now_s)

    def unbury(self, unburying: Unburying, now_s: int) -> None:
        """Unbury cards that were buried until the next day."""
        unbury.apply(self._connection, unburying, self.usn, now_s)

    def apply_graves(self, deleted: Graves, usn: int) -> None:
        """Delete these objects, and add graves with this USN."""
        graves.apply(self._connection, self._tally, deleted, usn)

    def apply_changes(self, changes: Changes, usn: int, now_s: int, *, sent_config: bool = False) -> None:
        """Merge notetypes, decks, deck options, tags and config of the client.

        `sent_config`: whether our config was sent to the client before. Raises: InvalidChange.
        """
        if sent_config:
            config.clear_usns(self._connection)
        db, codec, tally = self._connection, self._codec, self._tally
        mark = Mark(usn, now_s)
        notetypes.merge(db, codec, tally, changes.models, mark)
        decks.merge(db, codec, tally, changes.decks, mark)
        deck_configs.merge(db, codec, tally, changes.configs)
        tags.register(db, tally, changes.tags, usn)
        if changes.crt is not None:
            db.execute("UPDATE col SET crt = ?", (changes.crt,))
        if changes.conf is not None:
            config.replace_all(db, changes.conf, usn, now_s)

    def apply_chunk(self, chunk: Chunk, min_usn: int) -> None:
        """Merge rows; a stored row stays if the client has not seen it and it is at least as new.

        Raises: InvalidChange.
        """
        revlog.merge(self._connection, self._tally, chunk.revlog)
        if chunk.cards:
            cards.merge(self._connection, self._tally, chunk.cards, min_usn)
        if chunk.notes:
            notes.merge(self._connection, self._codec, self._tally, chunk.notes, min_usn)

    def counts(self) -> tuple[int, ...]:
        """Rows of cards, notes, revlog, graves, notetypes, decks, deck_config, as the tally has them."""
        return tuple(self._tally.counts[table] for table in COUNTED)

    def recount(self) -> tuple[int, ...]:
        """Count the rows in the tables, correct the tally, and return the counts as `counts` does."""
        self._tally.recount(self._connection)
        return self.counts()

    @property
    def maybe_unsynced(self) -> bool:
        """Whether a row may have USN -1, so that `has_unsynced` must search for one."""
        return self._tally.maybe_unsynced

    def has_unsynced(self) -> bool:
        """Whether a row has USN -1, which must not happen on a server."""
        return self._tally.has_unsynced(self._connection)

    def finish(self, now_ms: int) -> None:
        """End the sync: set the times of last sync and last change to `now_ms`, and add 1 to the USN."""
        self._connection.execute("UPDATE col SET ls = ?1, mod = ?1, usn = usn + 1", (now_ms,))

    def mark_downloaded(self, now_ms: int) -> None:
        """Add 1 to the USN and set `mod`, as the official server does before it sends the file.

        A device that uploaded may have a `mod` a millisecond above its time of last sync, which it shows as
        unsynced changes until its next normal sync; the new `mod` makes that happen. The new `mod` is
        later than the last one even if the clock went back. Source: rslib/src/sync/collection/download.rs
        of ankitects/anki (transact_no_undo sets `mod`).
        """
        self._connection.execute("UPDATE col SET mod = max(?, mod + 1), usn = usn + 1", (now_ms,))

    def stamps(self) -> Stamps:
        """The summary of this state for the head, see `storage.collection.stamps`."""
        if self._tally.newest is None:
            self._tally.newest = find_newest(self._connection)
        return carried_stamps(self._connection, self._tally)
