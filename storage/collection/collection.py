"""One user's collection as a sync merges into it. What a sync reads is in `unseen`.

The caller has a transaction open, and rolls it back when a call raises.
"""

from __future__ import annotations

import apsw

from storage.collection import (
    cards,
    config,
    deck_configs,
    decks,
    graves,
    notes,
    notetypes,
    revlog,
    tags,
    unbury,
)
from storage.collection.codec import Codec
from storage.collection.records import Changes, Chunk, Graves, Mark
from storage.collection.stamps import Stamps, carried_stamps
from storage.collection.tally import COUNTED, Tally, find_newest
from storage.collection.unbury import Unburying


class Collection:
    """Anki's tables (schema 18) behind a connection that `schema.configure` has set up.

    Everything is decided by arguments and tables alone, so that the same calls on the same version
    give the same tables again.
    """

    def __init__(self, connection: apsw.Connection, codec: Codec, stamps: Stamps) -> None:
        self._connection = connection
        self._codec = codec
        self._tally = Tally(stamps)

    @property
    def usn(self) -> int:
        """The USN that this sync's changes get."""
        usn: int = self._connection.execute("SELECT usn FROM col").get
        return usn

    def plan_unburying(self, now_s: int) -> Unburying:
        """What `unbury` would do at this time; costs microseconds."""
        return unbury.plan(self._connection, now_s)

    def unbury(self, unburying: Unburying, now_s: int) -> None:
        """Bring back cards that were buried for a day that is over."""
        unbury.apply(self._connection, unburying, self.usn, now_s)

    def apply_graves(self, deleted: Graves, usn: int) -> None:
        """Delete exactly these objects and remember them under this USN."""
        graves.apply(self._connection, self._tally, deleted, usn)

    def apply_changes(self, changes: Changes, usn: int, now_s: int, *, sent_config: bool = False) -> None:
        """Merge what the client changed. `sent_config` tells whether the client was sent our config before.

        Raises: InvalidChange.
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
        """Merge rows; ours stay where the client has not seen them and they are as new.

        Raises: InvalidChange.
        """
        revlog.merge(self._connection, self._tally, chunk.revlog)
        if chunk.cards:
            cards.merge(self._connection, self._tally, chunk.cards, min_usn)
        if chunk.notes:
            notes.merge(self._connection, self._codec, self._tally, chunk.notes, min_usn)

    def counts(self) -> tuple[int, ...]:
        """Rows of cards, notes, revlog, graves, notetypes, decks, deck_config, as carried along."""
        return tuple(self._tally.counts[table] for table in COUNTED)

    def recount(self) -> tuple[int, ...]:
        """The same by a real count, which is carried along from here."""
        self._tally.recount(self._connection)
        return self.counts()

    @property
    def maybe_unsynced(self) -> bool:
        """Whether `has_unsynced` has to look."""
        return self._tally.maybe_unsynced

    def has_unsynced(self) -> bool:
        """Whether a row has USN -1, which no row of a server may have."""
        return self._tally.has_unsynced(self._connection)

    def finish(self, now_ms: int) -> None:
        """End the sync: `now_ms` becomes the time of the last sync and change, and the USN goes up."""
        self._connection.execute("UPDATE col SET ls = ?1, mod = ?1, usn = usn + 1", (now_ms,))

    def mark_downloaded(self, now_ms: int) -> None:
        """Raise the USN and date the collection, as the official server does before it sends the file.

        A device that uploaded may have been left with a `mod` a millisecond above its time of last sync,
        which shows as unsynced changes. It clears them in the normal sync that this new `mod` causes. The new
        `mod` is later than the last one even if the clock went back.
        Source: rslib/src/sync/collection/download.rs of ankitects/anki (transact_no_undo sets `mod`).
        """
        self._connection.execute("UPDATE col SET mod = max(?, mod + 1), usn = usn + 1", (now_ms,))

    def stamps(self) -> Stamps:
        """What the head keeps of this state, see `storage.collection.stamps`."""
        if self._tally.newest is None:
            self._tally.newest = find_newest(self._connection)
        return carried_stamps(self._connection, self._tally)
