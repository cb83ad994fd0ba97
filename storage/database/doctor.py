"""Proves a database from its stored objects alone, and says what is wrong where something is.

Refuses to repair: that is a restore, and a person's decision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from storage.database import keys
from storage.database.checkout import Checkout
from storage.database.history import History
from storage.database.pages import PageParser
from storage.errors import Corrupt, NotFound
from storage.objects.base import ObjectStore
from storage.types import ChainEntry, DatabaseId, Head, Offload


class Diagnosis(msgspec.Struct, frozen=True):
    """What was looked at, and every fault found."""

    version: int
    objects: int
    stored_bytes: int
    faults: tuple[str, ...]


class Doctor:
    """Examines one database at a time."""

    def __init__(
        self,
        objects: ObjectStore,
        history: History,
        rebuild: Callable[[DatabaseId, Head], Checkout],
        offload: Offload[Any],
    ) -> None:
        self._objects, self._history = objects, history
        self._rebuild, self._offload = rebuild, offload

    def examine(self, database: DatabaseId, head: Head) -> Diagnosis:
        """Read every object, rebuild the current version, let SQLite check it, look for the past."""
        faults = [fault for entry in head.chain for fault in self._try_entry(database, entry)]
        if head.chain and not faults:
            faults += self._try_rebuild(database, head)
        seen = {keys.entry_key(database, entry) for entry in head.chain}
        faults += self._try_history(database, seen)
        stored = sum(entry.size_bytes for entry in head.chain)
        return Diagnosis(head.version, len(seen), stored, tuple(faults))

    def _try_entry(self, database: DatabaseId, entry: ChainEntry) -> list[str]:
        key = keys.entry_key(database, entry)
        parser = PageParser(key, entry)
        try:
            for piece in self._objects.stream(key):
                self._offload(functools.partial(_read_through, parser, piece))
            parser.finish()
        except (NotFound, Corrupt) as exc:
            return [f"version {entry.last}: {exc}"]
        return []

    def _try_rebuild(self, database: DatabaseId, head: Head) -> list[str]:
        try:
            checkout = self._rebuild(database, head)
        except (NotFound, Corrupt) as exc:
            return [f"rebuild: {exc}"]
        try:
            rows = self._offload(lambda: checkout.connection.execute("PRAGMA integrity_check").fetchall())
        finally:
            self._offload(checkout.remove)
        return [f"integrity: {text}" for (text,) in rows if text != "ok"]

    def _try_history(self, database: DatabaseId, seen: set[str]) -> list[str]:
        faults = []
        for name, departure in self._history.list_departures(database):
            if self._history.is_expired(departure):
                continue
            for entry in departure.chain:
                key = keys.entry_key(database, entry)
                if key not in seen and self._objects.find(key) is None:
                    faults.append(f"{name}: {key} is gone")
                seen.add(key)
        return faults


def _read_through(parser: PageParser, piece: bytes) -> None:
    for _ in parser.feed(piece):
        pass
