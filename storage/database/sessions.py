"""Opens, appends to, reads and ends the session of a database: the running sync in its head record.

Called by `app.sync.session` through `DatabaseStore.sessions`. To keep the record small, a large message is
stored as an object, and if the journal gets long, all of it is moved to one object ("folded"):

    [a] [b] [c]   --append d, over the limit-->   [folded: key]        the object: [a] [b] [c] [d]
    [folded: k1] [e] [f] ...   --over the limit again-->   [folded: k2]   the object: [folded: k1] [e] [f] ...
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import msgspec

from storage.database.format import envelope, keys
from storage.database.limits import Limits
from storage.errors import Conflict, Corrupt, SessionLost, TooLarge
from storage.heads.base import HeadStore, NewSession, SessionUpdate
from storage.objects.base import ObjectStore
from storage.types import EMPTY_HEAD, DatabaseId, Head, JournalEntry, Session

FOLDED = "folded"
"""The method of an entry whose object holds the journal up to then."""

_BATCH = 16
"""Journal bodies that are fetched at once."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[JournalEntry, ...]).decode


class SessionLog:
    """Sessions of any database. All methods raise `Unavailable` if a backend is not available."""

    def __init__(
        self, heads: HeadStore, objects: ObjectStore, limits: Limits, nonce: Callable[[], str]
    ) -> None:
        self._heads, self._objects, self._limits, self._nonce = heads, objects, limits, nonce

    def head(self, database: DatabaseId) -> Head:
        """The current head; EMPTY_HEAD for a database that was never written."""
        return self._heads.find(database) or EMPTY_HEAD

    def heads(self, databases: Sequence[DatabaseId]) -> list[Head]:
        """As `head`, for a few databases in one round trip."""
        return [head or EMPTY_HEAD for head in self._heads.find_many(databases)]

    def open(self, database: DatabaseId, session: NewSession) -> Head:
        """Begin a sync; an older session of the database ends. Raises: SessionLost."""
        return self._heads.open_session(database, session)

    def append(self, database: DatabaseId, session_id: str, entry: JournalEntry) -> Head:
        """Add a message to the journal, and return the head as written.

        Raises: SessionLost; TooLarge if the session is over its limits, which also ends it.
        """
        if entry.body is not None and len(entry.body) > self._limits.journal_inline_bytes:
            entry = self._place(database, session_id, entry)
        head = self._heads.append(database, session_id, entry)
        session = _session_of(head)
        size_bytes = sum(each.size_bytes for each in session.journal)
        if session.seq > self._limits.journal_entries or size_bytes > self._limits.journal_bytes:
            self.close(database, session)
            raise TooLarge(f"a sync of {session.seq} messages and {size_bytes} bytes")
        return self._fold_if_long(database, head)

    def _place(self, database: DatabaseId, session_id: str, entry: JournalEntry) -> JournalEntry:
        """Store the body of an entry as an object; its key contains the session's token."""
        session = self.head(database).session
        if session is None or session.id != session_id:
            raise SessionLost(f"no session {session_id}")
        return self._put(database, session, entry, entry.body or b"")

    def _put(
        self, database: DatabaseId, session: Session, entry: JournalEntry, content: bytes
    ) -> JournalEntry:
        # The token in the key keeps the object from being deleted as long as the session runs.
        key = keys.journal_key(database, session.token, session.seq, self._nonce())
        self._objects.put(key, envelope.seal(envelope.JOURNAL, content))
        return msgspec.structs.replace(entry, body=None, key=key)

    def _fold_if_long(self, database: DatabaseId, head: Head) -> Head:
        session, limits = _session_of(head), self._limits
        inline_bytes = sum(len(entry.body or b"") for entry in session.journal)
        if len(session.journal) <= limits.journal_fold_entries and inline_bytes <= limits.journal_fold_bytes:
            return head
        last = session.journal[-1]
        size_bytes = sum(entry.size_bytes for entry in session.journal)
        empty = JournalEntry(FOLDED, last.digest, last.now_ms, None, None, size_bytes=size_bytes)
        folded = self._put(database, session, empty, _encode(session.journal))
        try:
            return self.update(database, session, SessionUpdate(journal=(folded,)))
        except Conflict:
            return head  # another request has written the session; its worker folds the journal

    def update(self, database: DatabaseId, session: Session, update: SessionUpdate) -> Head:
        """Replace parts of a session if it is still as it was read, and return the head as written.

        Raises: SessionLost, SessionAhead.
        """
        return self._heads.update_session(database, session.token, session.id, session.seq, update)

    def close(self, database: DatabaseId, session: Session) -> bool:
        """End the session if it is still this one; returns whether it was."""
        return self._heads.close_session(database, session.token, session.id)

    def read_journal(self, session: Session) -> Iterator[tuple[JournalEntry, bytes]]:
        """(entry, zstd frame of its body) of all messages in order of arrival.

        Raises: NotFound if the session has ended and its objects were deleted; Corrupt.
        """
        entries = iter(self._unfolded(session.journal))
        while batch := list(itertools.islice(entries, _BATCH)):
            names = [entry.key for entry in batch if entry.body is None and entry.key is not None]
            contents = iter(self._objects.read_many(names) if names else ())
            for entry in batch:
                if entry.body is not None:
                    yield entry, entry.body
                    continue
                if entry.key is None:
                    raise Corrupt("journal", "a body or a key", entry.method)
                content = next(contents)
                # `read_many` gives None for a missing object; `read` raises the NotFound.
                yield (
                    entry,
                    _unsealed(entry.key, self._objects.read(entry.key) if content is None else content),
                )

    def _unfolded(self, journal: tuple[JournalEntry, ...]) -> list[JournalEntry]:
        # From the newest part back to the oldest: each folded entry leads to the part before it.
        later: list[tuple[JournalEntry, ...]] = []
        while journal and journal[0].method == FOLDED:
            later.append(journal[1:])
            key = journal[0].key or ""
            try:
                journal = _decode(_unsealed(key, self._objects.read(key)))
            except msgspec.MsgspecError as exc:
                raise Corrupt(key, "journal entries", str(exc)) from exc
        return [entry for part in (journal, *reversed(later)) for entry in part]


def _unsealed(key: str, content: bytes) -> bytes:
    return envelope.unseal(key, envelope.JOURNAL, content)


def _session_of(head: Head) -> Session:
    if head.session is None:
        raise SessionLost("the session was ended meanwhile")
    return head.session
