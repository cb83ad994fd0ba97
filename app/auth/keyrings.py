"""Which keys a user has: one item per user, so that they are listed and revoked without a scan.

A key is entered here before it is made, and leaves after it has ended. So a process that dies
between two writes leaves an entry without a key, which harms nobody, and never a key without entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from app.auth.dynamotable import DynamoTable, Item
from app.auth.hostkeys import KeyRecord
from storage.types import UserId

_PREFIX: Final = "keyring#"
_LISTING: Final = "keyring"
_TIME_BYTES: Final = 8


class RingEntry(NamedTuple):
    """One key, by its hash, and when it was made."""

    created_ms: int
    hash: bytes


class KeyRings:
    """Each change is one update of a set: it needs no condition, and repeated it does nothing."""

    def __init__(self, table: DynamoTable) -> None:
        self._table = table

    def enter(self, record: KeyRecord) -> list[RingEntry]:
        """Add a key that is about to be made; all that the user has then."""
        values = {":entry": _packed([entry_of(record)]), ":listing": {"S": _LISTING}}
        names = {"#keys": "keys", "#listing": "listing"}
        change = "ADD #keys :entry SET #listing = :listing"
        return _entries_of(self._table.update(_PREFIX + record.user, change, values, names=names))

    def leave(self, user: UserId, entries: Iterable[RingEntry]) -> None:
        """Take out keys that have ended; a user without any is forgotten."""
        packed = _packed(entries)
        if not packed["BS"]:
            return
        names = {"#keys": "keys", "#pk": "pk"}
        change = "DELETE #keys :entries"
        left = self._table.update(
            _PREFIX + user, change, {":entries": packed}, condition="attribute_exists(#pk)", names=names
        )
        if left is not None and not _entries_of(left):
            self._table.delete(_PREFIX + user, "attribute_not_exists(#keys)", {"#keys": "keys"})

    def find(self, user: UserId) -> list[RingEntry]:
        """All that the user has, and perhaps some that have ended."""
        return _entries_of(self._table.find(_PREFIX + user))

    def find_many(self, users: Iterable[UserId]) -> dict[UserId, list[RingEntry]]:
        """As `find`, of several users."""
        items = self._table.find_many(_PREFIX + user for user in users)
        return {_user_of(key): _entries_of(item) for key, item in items.items()}

    def list_users(self) -> Iterator[UserId]:
        """All users that have keys; one that logged in for the first time a moment ago may be missed."""
        return (_user_of(key) for key in self._table.list_keys(_LISTING))


def entry_of(record: KeyRecord) -> RingEntry:
    """The entry of a key."""
    return RingEntry(record.created_ms, record.hash)


def _user_of(key: str) -> UserId:
    return UserId(key.removeprefix(_PREFIX))


def _packed(entries: Iterable[RingEntry]) -> dict[str, list[bytes]]:
    return {"BS": [entry.created_ms.to_bytes(_TIME_BYTES) + entry.hash for entry in entries]}


def _entries_of(item: Item | None) -> list[RingEntry]:
    """Oldest first."""
    values: list[Any] = (item or {}).get("keys", {}).get("BS", [])
    packed = sorted(bytes(value) for value in values)
    return [RingEntry(int.from_bytes(value[:_TIME_BYTES]), value[_TIME_BYTES:]) for value in packed]
