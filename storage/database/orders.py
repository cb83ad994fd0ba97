"""What an operator has ordered for the whole service: one record, which every worker reads every few seconds.

The record is the head of `.store/media`. It has no file: the orders are the answer of its newest commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from storage.database.mark import STORE
from storage.errors import Conflict, Corrupt
from storage.heads.base import Flip, HeadStore
from storage.types import EMPTY_HEAD, ChainEntry, DatabaseId, DatabaseKind, EntryKind, Head

ORDERS: Final = DatabaseId(STORE.user, DatabaseKind.MEDIA)
_ATTEMPTS: Final = 5


class Orders(msgspec.Struct, frozen=True, omit_defaults=True):
    """The orders in force. Fields that a reader does not know are passed over."""

    closed_text: str = ""
    """What clients are told while the service is closed for maintenance; empty while it is open."""
    closed_since_ms: int = 0


class OrdersRecord:
    """Reads and changes the orders of one store."""

    def __init__(self, heads: HeadStore, clock_ms: Callable[[], int], nonce: Callable[[], str]) -> None:
        self._heads, self._clock_ms, self._nonce = heads, clock_ms, nonce

    def read(self) -> Orders:
        """The orders in force: one read of one record. Raises: Corrupt, Unavailable."""
        return _orders_of(self._heads.find(ORDERS) or EMPTY_HEAD)

    def change(self, change: Callable[[Orders], Orders]) -> Orders:
        """Replace the orders by what `change` makes of them; durable on return.

        Raises: Conflict if others are faster again and again.
        """
        for attempt in range(_ATTEMPTS):
            head = self._heads.find(ORDERS) or EMPTY_HEAD
            orders = change(_orders_of(head))
            try:
                self._heads.flip(ORDERS, self._flip(head, orders))
            except Conflict:
                if attempt + 1 == _ATTEMPTS:
                    raise
            else:
                break
        return orders

    def _flip(self, head: Head, orders: Orders) -> Flip:
        now_ms, nonce, version = self._clock_ms(), self._nonce(), head.version + 1
        entry = ChainEntry(
            EntryKind.SNAPSHOT, version, version, head.token, nonce, 0, bytes(32), 0, 0, 0, (nonce,), now_ms
        )
        return Flip(
            token=head.token, base_version=head.version, session_id=None, seq=0, commit_id=nonce,
            answer=msgspec.msgpack.encode(orders), time_ms=now_ms, stamps={}, entry=entry,
        )  # fmt: skip


def _orders_of(head: Head) -> Orders:
    if not head.recent:
        return Orders()
    try:
        return msgspec.msgpack.decode(head.recent[-1].answer, type=Orders)
    except msgspec.MsgspecError as exc:
        raise Corrupt(str(ORDERS), "orders", str(exc)) from exc
