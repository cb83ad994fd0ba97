"""The index of host keys by user, in DynamoDB: one item per user, so that keys are listed without a scan.

Used by `dynamodb`. An entry is added before its key is stored, and removed after the key was deleted. If a
process dies between the two writes, there is an entry without a key, which is harmless, but never a key
without an entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from app.auth.aws.table import DynamoTable, Item
from app.auth.hostkeys import KeyRecord
from storage.types import UserId

_PREFIX: Final = "keyring#"
_LISTING: Final = "keyring"
_TIME_BYTES: Final = 8


class RingEntry(NamedTuple):
    """One key: its hash, and when it was created."""

    created_ms: int
    hash: bytes


class KeyRings:
    """The index. Each change is one update of a set, which is idempotent and needs no condition."""

    def __init__(self, table: DynamoTable) -> None:
        self._table = table

    def enter(self, record: KeyRecord) -> list[RingEntry]:
        """Add the entry of a key that is going to be stored; returns all entries of the user."""
        values = {":entry": _packed([entry_of(record)]), ":listing": {"S": _LISTING}}
        names = {"#keys": "keys", "#listing": "listing"}
        change = "ADD #keys :entry SET #listing = :listing"
        return _entries_of(self._table.update(_PREFIX + record.user, change, values, names=names))

    def leave(self, user: UserId, entries: Iterable[RingEntry]) -> None:
        """Remove entries; if the user has none left, the item is deleted."""
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
        """All entries of a user; some of their keys may not exist any more."""
        return _entries_of(self._table.find(_PREFIX + user))

    def find_many(self, users: Iterable[UserId]) -> dict[UserId, list[RingEntry]]:
        """As `find`, for several users."""
        items = self._table.find_many(_PREFIX + user for user in users)
        return {_user_of(key): _entries_of(item) for key, item in items.items()}

    def list_users(self) -> Iterator[UserId]:
        """All users that have keys; one whose first login was a moment ago may be missing."""
        return (_user_of(key) for key in self._table.list_keys(_LISTING))


def entry_of(record: KeyRecord) -> RingEntry:
    """The entry of a key."""
    return RingEntry(record.created_ms, record.hash)


def _user_of(key: str) -> UserId:
    return UserId(key.removeprefix(_PREFIX))


def _packed(entries: Iterable[RingEntry]) -> dict[str, list[bytes]]:
    return {"BS": [entry.created_ms.to_bytes(_TIME_BYTES) + entry.hash for entry in entries]}


def _entries_of(item: Item | None) -> list[RingEntry]:
    """The entries in an item, oldest first."""
    values: list[Any] = (item or {}).get("keys", {}).get("BS", [])
    packed = sorted(bytes(value) for value in values)
    return [RingEntry(int.from_bytes(value[:_TIME_BYTES]), value[_TIME_BYTES:]) for value in packed]
