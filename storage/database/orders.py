"""What an operator has ordered for the whole service: one record, which every worker reads every few seconds.

The record is the head of `.store/media`. It has no file: the orders are the answer of its newest commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from storage.database.maintenance.mark import STORE
from storage.errors import Conflict, Corrupt
from storage.heads.base import HeadStore, HeadUpdate
from storage.types import EMPTY_HEAD, ChainEntry, DatabaseId, DatabaseKind, EntryKind, Head, UserId

ORDERS: Final = DatabaseId(STORE.user, DatabaseKind.MEDIA)
_ATTEMPTS: Final = 5
_MOST_BYTES: Final = 32 * 1024
"""A record keeps the last eight orders, and an item of DynamoDB has 400 KB: some 600 quotas of users."""


class Quota(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a user may keep. In a record None stands for the default of the settings and 0 for no limit."""

    collection_bytes: int | None = None
    """Of the collection's file; history is thinned if all objects together take more."""
    media_bytes: int | None = None
    media_files: int | None = None


class Orders(msgspec.Struct, frozen=True, omit_defaults=True):
    """The orders in force. Fields that a reader does not know are passed over."""

    closed_text: str = ""
    """What clients are told while the service is closed for maintenance; empty while it is open."""
    closed_since_ms: int = 0
    quotas: dict[str, Quota] = {}
    """Of users who have one of their own, by their ids."""

    def quota_of(self, user: UserId, default: Quota) -> Quota:
        """What a user may keep; None stands for no limit."""
        own = self.quotas.get(user) or default
        return Quota(
            _limit(own.collection_bytes, default.collection_bytes),
            _limit(own.media_bytes, default.media_bytes),
            _limit(own.media_files, default.media_files),
        )


class OrdersTooLarge(ValueError):
    """More orders than the record can hold."""


class OrdersRecord:
    """Reads and changes the orders of one store."""

    def __init__(self, heads: HeadStore, clock_ms: Callable[[], int], nonce: Callable[[], str]) -> None:
        self._heads, self._clock_ms, self._nonce = heads, clock_ms, nonce

    def read(self) -> Orders:
        """The orders in force: one read of one record. Raises: Corrupt, Unavailable."""
        return _orders_of(self._heads.find(ORDERS) or EMPTY_HEAD)

    def change(self, change: Callable[[Orders], Orders]) -> Orders:
        """Replace the orders by what `change` makes of them; durable on return.

        Raises: Conflict if others are faster again and again; OrdersTooLarge.
        """
        for attempt in range(_ATTEMPTS):
            head = self._heads.find(ORDERS) or EMPTY_HEAD
            orders = change(_orders_of(head))
            try:
                self._heads.advance_head(ORDERS, self._head_update(head, orders))
            except Conflict:
                if attempt + 1 == _ATTEMPTS:
                    raise
            else:
                break
        return orders

    def _head_update(self, head: Head, orders: Orders) -> HeadUpdate:
        answer = msgspec.msgpack.encode(orders)
        if len(answer) > _MOST_BYTES:
            raise OrdersTooLarge(f"the orders take {len(answer)} bytes; {_MOST_BYTES} is the most")
        now_ms, nonce, version = self._clock_ms(), self._nonce(), head.version + 1
        entry = ChainEntry(
            EntryKind.SNAPSHOT, version, version, head.token, nonce, 0, bytes(32), 0, 0, 0, (nonce,), now_ms
        )
        return HeadUpdate(
            token=head.token, base_version=head.version, session_id=None, seq=0, commit_id=nonce,
            answer=answer, time_ms=now_ms, stamps={}, entry=entry,
        )  # fmt: skip


def _limit(own: int | None, default: int | None) -> int | None:
    return (default if own is None else own) or None


def _orders_of(head: Head) -> Orders:
    if not head.recent:
        return Orders()
    try:
        return msgspec.msgpack.decode(head.recent[-1].answer, type=Orders)
    except msgspec.MsgspecError as exc:
        raise Corrupt(str(ORDERS), "orders", str(exc)) from exc
