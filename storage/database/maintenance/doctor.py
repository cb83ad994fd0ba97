"""Checks a database by rebuilding it from its stored objects alone, and reports faults; it repairs nothing.

Called by `storage.database.store` for `ankisyncctl doctor`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from storage.database.format import keys
from storage.database.format.pages import PageParser
from storage.database.history import History
from storage.database.local.checkout import Checkout
from storage.database.maintenance.lost import find_evidence
from storage.errors import Corrupt, NotFound
from storage.objects.base import ObjectStore
from storage.types import ChainEntry, DatabaseId, Head, Offload


class Diagnosis(msgspec.Struct, frozen=True):
    """What was examined, and all faults as text for the operator."""

    version: int
    objects: int
    stored_bytes: int
    faults: tuple[str, ...]


class Doctor:
    """Examines one database at a time."""

    def __init__(  # noqa: PLR0913, PLR0917  # one constructor call, in the facade
        self,
        objects: ObjectStore,
        history: History,
        rebuild: Callable[[DatabaseId, Head], Checkout],
        offload: Offload[Any],
        clock_ms: Callable[[], int],
        find_head: Callable[[DatabaseId], Head | None],
    ) -> None:
        self._find_head = find_head
        self._objects, self._history, self._clock_ms = objects, history, clock_ms
        self._rebuild, self._offload = rebuild, offload

    def examine(self, database: DatabaseId, head: Head) -> Diagnosis:
        """Read every object, rebuild the current version, run SQLite's integrity check, check the history."""
        faults = [fault for entry in head.chain for fault in self._try_entry(database, entry)]
        # Without all objects a rebuild cannot succeed.
        if head.chain and not faults:
            faults += self._try_rebuild(database, head)
        seen = {keys.entry_key(database, entry) for entry in head.chain}
        faults += self._try_history(database, seen)
        faults += self._try_newer(database)
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

    def _try_newer(self, database: DatabaseId) -> list[str]:
        """Look for objects that are newer than the head, which then was restored from an older copy."""
        listed = list(self._objects.list(keys.prefix(database)))
        evidence = find_evidence(database, self._find_head(database), listed)
        if evidence is None or not evidence.is_likely:
            return []
        also = "" if evidence.is_proof else ", or the machine lost power within a commit"
        return [f"the head record is of an earlier moment{also}: {evidence.text}"]

    def _try_history(self, database: DatabaseId, seen: set[str]) -> list[str]:
        faults = []
        for departed in self._history.list_departed(database):
            if self._history.is_expired(departed, self._clock_ms()):
                continue  # a sweep may have deleted some of its objects already
            for entry in departed.departure.chain:
                key = keys.entry_key(database, entry)
                # Only their existence is checked: reading the whole history would take too long.
                if key not in seen and self._objects.find(key) is None:
                    faults.append(f"{departed.key}: {key} is gone")
                seen.add(key)
        return faults


def _read_through(parser: PageParser, piece: bytes) -> None:
    for _ in parser.feed(piece):
        pass
