"""Host keys and counts of login attempts in a DynamoDB table.

Every write is a conditional update of one item. Items have the time-to-live attribute `expires` (s);
DynamoDB may delete them days later, so the code also compares the time.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from app.auth.attempts import State, packed, unpacked
from app.auth.aws.key_index import KeyRings, RingEntry, entry_of
from app.auth.aws.table import DynamoTable, Item
from app.auth.hostkeys import KeyKind, KeyRecord
from app.auth.key_cache import KeyCache
from app.errors import RateLimited, ServiceUnavailable
from storage.types import UserId

_KEY_PREFIX = "hostkey#"
_COUNT_PREFIX = "logins#"
_SECRET_ITEM = "login-secret"  # noqa: S105 - the name of an item
_DAY_MS = 24 * 60 * 60 * 1000
IDLE_MS = 400 * _DAY_MS
"""A key that was not used for so long expires."""
TTL_ATTRIBUTE = "expires"
MOST_KEYS = 1000
"""Keys of one user, at most; if there are more, the quarter that was used the longest ago is deleted."""
_LOGIN_MS = _DAY_MS
"""Longer than this after the creation of an entry, its key cannot be still going to be stored."""
_CHANGES = 6
"""Attempts of one change; each that fails means that another process succeeded."""
_LONGEST_PAUSE_S = 0.02
_SEEN_KEPT = 1000

T = TypeVar("T")


class DynamoHostKeys:
    """See `app.auth.hostkeys.HostKeys`. A process sees a revocation up to `remember_ms` late.

    This is due to the cache, with which a sync of seven requests reads its key once. A key that is not
    used for `idle_ms` expires. Keys are listed by `app.auth.aws.key_index`; a key from before that index
    existed is valid, and is added to it by the next `touch`.
    """

    def __init__(  # noqa: PLR0913 - by name
        self,
        table: DynamoTable,
        clock_ms: Callable[[], int],
        *,
        idle_ms: int = IDLE_MS,
        remember_ms: int = 30 * 1000,
        remember_count: int = 10_000,
        most_keys: int = MOST_KEYS,
    ) -> None:
        self._table, self._clock_ms = table, clock_ms
        self._rings = KeyRings(table)
        self._idle_ms, self._most_keys = idle_ms, most_keys
        self._key_cache = KeyCache(remember_ms, remember_count)

    def add(self, record: KeyRecord) -> None:
        # The index first: see `app.auth.aws.key_index`.
        entries = self._rings.enter(record)
        # An existing item is the same one, from an attempt whose answer was lost.
        self._table.put(self._item_of(record))
        if len(entries) > self._most_keys:
            with contextlib.suppress(ServiceUnavailable):  # the next login does it
                self._thin_out(record.user, entries)

    def find(self, key_hash: bytes) -> KeyRecord | None:
        now_ms = self._clock_ms()
        record = self._key_cache.find(key_hash, now_ms)
        if record is not None:
            return record
        item = self._table.find(_key_of(key_hash))
        if item is None or int(item["expires"]["N"]) * 1000 <= now_ms:
            self._key_cache.forget(key_hash)
            return None
        record = _record_of(item)
        self._key_cache.add(record, now_ms)
        return record

    def touch(self, record: KeyRecord) -> None:
        values = {
            ":used": {"N": str(record.used_ms)},
            ":checked": {"N": str(record.checked_ms)},
            ":sealed": {"B": record.sealed},
            ":expires": {"N": str(self._expires_s(record))},
        }
        change = "SET used_ms = :used, checked_ms = :checked, sealed = :sealed, expires = :expires"
        item = self._table.update(_key_of(record.hash), change, values, condition="attribute_exists(pk)")
        if item is None:
            self._key_cache.forget(record.hash)
            return
        self._key_cache.add(record, self._clock_ms())
        # A key from before the index existed.
        if "listed" not in item:
            self._rings.enter(record)
            listed = {":yes": {"BOOL": True}}
            self._table.update(
                _key_of(record.hash), "SET listed = :yes", listed, condition="attribute_exists(pk)"
            )

    def revoke(self, key_hash: bytes) -> bool:
        self._key_cache.forget(key_hash)
        item = self._table.delete(_key_of(key_hash))
        if item is None:
            return False
        record = _record_of(item)
        self._rings.leave(record.user, [entry_of(record)])
        return True

    def revoke_all(self, user: UserId) -> int:
        return self._revoke(user, self._rings.find(user))

    def list(self, user: UserId | None = None) -> Iterator[KeyRecord]:
        rings = self._all_rings() if user is None else {user: self._rings.find(user)}
        now_s = self._clock_ms() // 1000
        items = self._items_of(entry for entries in rings.values() for entry in entries)
        for owner, entries in rings.items():
            with contextlib.suppress(ServiceUnavailable):  # listing must work with read-only permissions
                self._rings.leave(owner, [entry for entry in entries if self._is_over(entry, items)])
        records = [_record_of(item) for item in items.values() if int(item["expires"]["N"]) > now_s]
        return iter(sorted(records, key=lambda record: (record.created_ms, record.hash)))

    def _all_rings(self) -> Mapping[UserId, Sequence[RingEntry]]:
        return self._rings.find_many(self._rings.list_users())

    def _items_of(self, entries: Iterable[RingEntry]) -> dict[str, Item]:
        return self._table.find_many(_key_of(entry.hash) for entry in entries)

    def _is_over(self, entry: RingEntry, items: dict[str, Item]) -> bool:
        """Whether the key of an entry is not in `items`, and cannot be still going to be stored."""
        return _key_of(entry.hash) not in items and entry.created_ms + _LOGIN_MS < self._clock_ms()

    def _revoke(self, user: UserId, entries: Iterable[RingEntry]) -> int:
        """Delete keys and their entries, except entries whose key may be still going to be stored."""
        count, over = 0, []
        for entry in entries:
            self._key_cache.forget(entry.hash)
            is_gone = self._table.delete(_key_of(entry.hash)) is not None
            count += is_gone
            if is_gone or self._is_over(entry, {}):
                over.append(entry)
        self._rings.leave(user, over)
        return count

    def _thin_out(self, user: UserId, entries: Sequence[RingEntry]) -> None:
        """Delete the keys that were used the longest ago, so that the user's item stays small."""
        items = self._items_of(entries)
        self._rings.leave(user, [entry for entry in entries if self._is_over(entry, items)])
        records = sorted((_record_of(item) for item in items.values()), key=lambda record: record.used_ms)
        kept = self._most_keys - self._most_keys // 4
        if len(records) > self._most_keys:
            self._revoke(user, map(entry_of, records[:-kept]))

    def _expires_s(self, record: KeyRecord) -> int:
        return (record.used_ms + self._idle_ms) // 1000

    def _item_of(self, record: KeyRecord) -> Item:
        item = {
            "pk": {"S": _key_of(record.hash)},
            "user": {"S": record.user},
            "client": {"S": record.client},
            "created_ms": {"N": str(record.created_ms)},
            "used_ms": {"N": str(record.used_ms)},
            "checked_ms": {"N": str(record.checked_ms)},
            "sealed": {"B": record.sealed},
            "expires": {"N": str(self._expires_s(record))},
            "listed": {"BOOL": True},
        }
        if record.kind is not KeyKind.DEVICE or record.parent:
            item |= {
                "kind": {"S": record.kind.value},
                "name": {"S": record.name},
                "parent": {"B": record.parent},
            }
        return item


class DynamoCounts:
    """See `app.auth.attempts.Counts`. Each change is one conditional update, on a version number.

    The last seen counts are cached, so most changes need no read.
    """

    def __init__(self, table: DynamoTable) -> None:
        self._table = table
        self._secret: bytes | None = None
        self._seen: OrderedDict[bytes, tuple[int, State]] = OrderedDict()

    def secret(self) -> bytes:
        self._secret = self._secret or self._shared_secret()
        return self._secret

    def change(self, key: bytes, now_ms: int, work: Callable[[State], T]) -> T:
        # Not in the cache: the first attempt assumes that there is no item, which is right for most keys.
        version, before = self._seen.pop(key, (0, {}))
        is_read = False
        for attempt in range(_CHANGES):
            state = dict(before)
            answer = work(state)
            # `work` changed nothing, based on counts that were just read.
            if state == before and is_read:
                return answer
            if state != before and self._store(key, version, state, now_ms):
                return answer
            if is_read:  # then another process was faster
                time.sleep(random.uniform(0, _LONGEST_PAUSE_S) * attempt)  # noqa: S311 - no secret
            version, before = self._read(key)
            is_read = True
        raise RateLimited("too many logins at once from this address", 1)

    def _read(self, key: bytes) -> tuple[int, State]:
        item = self._table.find(_count_key(key))
        return (int(item["version"]["N"]), unpacked(bytes(item["state"]["B"]))) if item else (0, {})

    def _store(self, key: bytes, version: int, state: State, now_ms: int) -> bool:
        """Replace the counts of a version; False if the item has another version by now."""
        names = {"#state": "state", "#version": "version", "#expires": TTL_ATTRIBUTE}
        values = {
            ":state": {"B": packed(state)},
            ":version": {"N": str(version + 1)},
            ":expires": {"N": str(max(state.values(), default=now_ms) // 1000 + 1)},
        }
        if version:
            values[":before"] = {"N": str(version)}
        stored = self._table.update(
            _count_key(key),
            "SET #state = :state, #version = :version, #expires = :expires",
            values,
            # Version 0: there must be no item.
            condition="#version = :before" if version else "attribute_not_exists(#version)",
            names=names,
        )
        if stored is None:
            return False
        self._seen[key] = version + 1, state
        if len(self._seen) > _SEEN_KEPT:
            self._seen.popitem(last=False)
        return True

    def _shared_secret(self) -> bytes:
        """The secret, which the first process that needs it creates."""
        fresh = secrets.token_bytes(32)
        if self._table.put({"pk": {"S": _SECRET_ITEM}, "value": {"B": fresh}}):
            return fresh
        item = self._table.find(_SECRET_ITEM)
        if item is None:
            raise ServiceUnavailable("the secret of the login attempts has gone")
        return bytes(item["value"]["B"])


def _key_of(key_hash: bytes) -> str:
    return _KEY_PREFIX + key_hash.hex()


def _count_key(key: bytes) -> str:
    return _COUNT_PREFIX + key.hex()


def _record_of(item: Item) -> KeyRecord:
    return KeyRecord(
        hash=bytes.fromhex(item["pk"]["S"].removeprefix(_KEY_PREFIX)),
        user=UserId(item["user"]["S"]),
        client=item["client"]["S"],
        created_ms=int(item["created_ms"]["N"]),
        used_ms=int(item["used_ms"]["N"]),
        checked_ms=int(item["checked_ms"]["N"]),
        sealed=bytes(item["sealed"]["B"]),
        # A key of a device that logged in with the account's password has none of these.
        kind=KeyKind(item.get("kind", {"S": KeyKind.DEVICE.value})["S"]),
        name=item.get("name", {"S": ""})["S"],
        parent=bytes(item.get("parent", {"B": b""})["B"]),
    )
