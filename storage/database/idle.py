"""Working copies that wait for the next sync of their database, least recently used first.

Refuses to hold more than the limits: what falls out is handed back to be removed.
"""

from __future__ import annotations

from collections import OrderedDict

from storage.database.checkout import Checkout
from storage.database.limits import Limits
from storage.types import DatabaseId


class IdleCopies:
    """At most one copy per database. No method blocks."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._copies: OrderedDict[DatabaseId, Checkout] = OrderedDict()
        self._wal_bytes = 0

    def take(self, database: DatabaseId) -> Checkout | None:
        """The copy of a database; it is no longer kept here."""
        copy = self._copies.pop(database, None)
        if copy is not None:
            self._wal_bytes -= copy.layout.log_bytes()
        return copy

    def find(self, database: DatabaseId) -> Checkout | None:
        """The copy of a database; it stays."""
        return self._copies.get(database)

    def keep(self, copy: Checkout) -> list[Checkout]:
        """Keep a copy. Returns those that must go for it: an older one of its database, or the oldest."""
        out = []
        present = self.take(copy.database)
        if present is not None:
            copy, other = (copy, present) if copy.version >= present.version else (present, copy)
            out.append(other)
        self._copies[copy.database] = copy
        self._wal_bytes += copy.layout.log_bytes()
        while self._copies and (
            len(self._copies) > self._limits.idle_copies or self._wal_bytes > self._limits.idle_wal_bytes
        ):
            _, oldest = self._copies.popitem(last=False)
            self._wal_bytes -= oldest.layout.log_bytes()
            out.append(oldest)
        return out

    def take_all(self) -> list[Checkout]:
        """Every copy; none is kept."""
        copies = list(self._copies.values())
        self._copies.clear()
        self._wal_bytes = 0
        return copies
