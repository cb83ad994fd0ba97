"""Head records in a dictionary, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Lock

from storage.heads import transitions
from storage.heads.base import HeadUpdate, NewSession, SessionUpdate
from storage.heads.keys import check_user
from storage.types import ChainEntry, DatabaseId, Head, JournalEntry, UserId


class MemoryHeadStore:
    """The head store of one process."""

    def __init__(self) -> None:
        self._heads: dict[DatabaseId, Head] = {}
        self._lock = Lock()

    def find(self, database: DatabaseId) -> Head | None:
        check_user(database.user)
        return self._heads.get(database)

    def find_many(self, databases: Sequence[DatabaseId]) -> list[Head | None]:
        return [self.find(database) for database in databases]

    def open_session(self, database: DatabaseId, session: NewSession) -> Head:
        return self._change(database, lambda head: transitions.open_session(head, session))

    def append(self, database: DatabaseId, session_id: str, entry: JournalEntry) -> Head:
        return self._change(database, lambda head: transitions.append(head, session_id, entry))

    def update_session(
        self, database: DatabaseId, token: int, session_id: str, seq: int, update: SessionUpdate
    ) -> Head:
        return self._change(
            database, lambda head: transitions.update_session(head, token, session_id, seq, update)
        )

    def close_session(self, database: DatabaseId, token: int, session_id: str) -> bool:
        check_user(database.user)
        with self._lock:
            after = transitions.close_session(self._heads.get(database), token, session_id)
            if after is not None:
                self._heads[database] = after
        return after is not None

    def advance_head(self, database: DatabaseId, update: HeadUpdate) -> Head:
        return self._change(database, lambda head: transitions.advance_head(head, update))

    def replace_chain(
        self, database: DatabaseId, token: int, chain_revision: int, chain: tuple[ChainEntry, ...]
    ) -> Head:
        return self._change(
            database, lambda head: transitions.replace_chain(head, token, chain_revision, chain)
        )

    def replace_head(self, database: DatabaseId, found: Head | None, head: Head) -> None:
        self._change(database, lambda before: transitions.replace_head(before, found, head))

    def list(self, user: UserId | None = None) -> Iterator[DatabaseId]:
        if user is not None:
            check_user(user)
        return iter(sorted(known for known in self._heads if user is None or known.user == user))

    def list_changed(self, since_ms: int) -> Iterator[DatabaseId]:
        heads = sorted(self._heads.items())
        return (known for known, head in heads if transitions.changed_since(head, since_ms))

    def settle(self, database: DatabaseId, chain_revision: int) -> None:
        """Does nothing: `list_changed` goes by the time of the last commit."""

    def delete(self, database: DatabaseId) -> None:
        check_user(database.user)
        with self._lock:
            self._heads.pop(database, None)

    def _change(self, database: DatabaseId, transition: Callable[[Head | None], Head]) -> Head:
        check_user(database.user)
        with self._lock:
            head = self._heads[database] = transition(self._heads.get(database))
        return head
