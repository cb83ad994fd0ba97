"""Where the bodies of journal entries go: into the head record while they are few, else to objects.

Refuses to look into bodies: they are the caller's zstd frames.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from storage.database import keys, sealed
from storage.database.limits import Limits
from storage.errors import Corrupt
from storage.objects.base import ObjectStore
from storage.types import DatabaseId, Head, JournalEntry

_SMALL_BYTES = 256


class JournalBodies:
    """Counts what the running session of each database holds inline, as far as this process saw it."""

    def __init__(self, objects: ObjectStore, limits: Limits, nonce: Callable[[], str]) -> None:
        self._objects, self._limits, self._nonce = objects, limits, nonce
        self._inline: dict[DatabaseId, tuple[int, int, int]] = {}

    def saw(self, database: DatabaseId, head: Head) -> None:
        """Remember how full the journal of a head is."""
        session = head.session
        if session is None:
            self._inline.pop(database, None)
        else:
            inline = sum(len(entry.body or b"") for entry in session.journal)
            self._inline[database] = (session.token, session.seq, inline)

    def forget(self, database: DatabaseId) -> None:
        """The session is over."""
        self._inline.pop(database, None)

    def place(self, database: DatabaseId, token: int, seq: int, entry: JournalEntry) -> JournalEntry:
        """The entry to append; its body was put into an object if the journal would get too large."""
        if entry.body is None or len(entry.body) + self._used(database, token, seq) <= self._room(entry):
            return entry
        key = keys.journal_key(database, token, seq, self._nonce())
        self._objects.put(key, sealed.seal(sealed.JOURNAL, entry.body))
        return msgspec.structs.replace(entry, body=None, key=key)

    def _used(self, database: DatabaseId, token: int, seq: int) -> int:
        known = self._inline.get(database)
        return (
            known[2] if known is not None and known[:2] == (token, seq) else self._limits.journal_inline_bytes
        )

    def _room(self, entry: JournalEntry) -> int:
        small = entry.body is not None and len(entry.body) <= _SMALL_BYTES
        return self._limits.journal_inline_bytes + (_SMALL_BYTES if small else 0)

    def appended(self, database: DatabaseId, token: int, seq: int, entry: JournalEntry) -> None:
        """Count an entry that was appended as number `seq`."""
        known = self._inline.get(database)
        if known is not None and known[:2] == (token, seq):
            self._inline[database] = (token, seq + 1, known[2] + len(entry.body or b""))

    def read(self, entry: JournalEntry) -> bytes:
        """The body of an entry as it was given. Raises: NotFound, Corrupt."""
        if entry.body is not None:
            return entry.body
        if entry.key is None:
            raise Corrupt("journal", "a body or a key", entry.method)
        return sealed.unseal(entry.key, sealed.JOURNAL, self._objects.read(entry.key))
