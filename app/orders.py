"""Keeps a worker up to date with what the operator has ordered for the whole service."""

from __future__ import annotations

import logging
from collections.abc import Callable

from storage.database.orders import Orders, OrdersRecord, Quota
from storage.types import UserId

LOOK_S = 5.0
"""How long an order may go unnoticed by a worker. Syncs make no call for it."""

log = logging.getLogger("ankisyncd.orders")


class OrdersWatch:
    """The orders in force, as this process last read them."""

    def __init__(self, record: OrdersRecord, sleep: Callable[[float], None], quota: Quota) -> None:
        """`sleep` lets the process go on. `quota`: of users who have none of their own."""
        self._record, self._sleep, self._quota = record, sleep, quota
        self._is_known = True
        self.current = Orders()

    @property
    def closed_text(self) -> str:
        """What clients are told while the service is closed; empty while it is open."""
        return self.current.closed_text

    def quota_of(self, user: UserId) -> Quota:
        """What a user may keep; None stands for no limit."""
        return self.current.quota_of(user, self._quota)

    def look(self) -> None:
        """Read the record; what was known stays in force while it cannot be read."""
        try:
            found = self._record.read()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the next look may succeed
            if self._is_known:
                log.warning("the operator's orders cannot be read, the last ones stay in force: %s", exc)
            self._is_known = False
            return
        self._is_known = True
        if found.closed_text != self.closed_text:
            log.info("the service is %s", f"closed: {found.closed_text}" if found.closed_text else "open")
        self.current = found

    def watch(self) -> None:
        """Go on for ever."""
        while True:
            self._sleep(LOOK_S)
            self.look()
