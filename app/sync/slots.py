"""One slot per database: the lock that lets its requests through one by one, and the sync it runs.

Refuses to keep more running syncs than a worker can hold: those left alone the longest are let go,
and come back by replay if their client does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from app.sync.state import SyncState
from storage.database.checkout import Checkout
from storage.types import DatabaseId, Head

Lock = AbstractContextManager[object]


@dataclass(slots=True)
class LiveSession:
    """A sync whose changes are in an open transaction of this worker's copy."""

    id: str
    head: Head
    """As the session found it: its token and the version that the commit builds on."""
    seq: int
    """Number of journal entries that `state` includes."""
    checkout: Checkout
    state: SyncState
    is_short: bool = True
    """Whether all of it was done on the event loop; its commit is then as short."""
    has_travelled: bool = False
    """Whether other workers have served it too, and may have gone on with it again."""

    @property
    def token(self) -> int:
        """The fencing token of the session."""
        return self.head.token


@dataclass(slots=True)
class Slot:
    """Whoever is inside `Slots.enter` may change it, nobody else."""

    lock: Lock
    guests: int = 0
    """Requests inside or waiting."""
    live: LiveSession | None = None
    used_ms: int = 0


@dataclass(slots=True)
class Slots:
    """All databases that this worker has to do with just now."""

    new_lock: Callable[[], Lock]
    clock_ms: Callable[[], int]
    most: int
    idle_ms: int
    _slots: OrderedDict[DatabaseId, Slot] = field(default_factory=OrderedDict)
    _lock: Lock = field(init=False)

    def __post_init__(self) -> None:
        self._lock = self.new_lock()

    def enter(self, database: DatabaseId) -> Entered:
        """Wait for the other requests for this database, then be alone with it."""
        return Entered(self, database)

    def _come(self, database: DatabaseId) -> Slot:
        with self._lock:
            slot = self._slots.get(database)
            if slot is None:
                slot = self._slots[database] = Slot(self.new_lock())
            slot.guests += 1
        return slot

    def _leave(self, database: DatabaseId, slot: Slot) -> None:
        with self._lock:
            slot.guests -= 1
            slot.used_ms = self.clock_ms()
            if slot.live is None and slot.guests == 0:
                self._slots.pop(database, None)
            elif database in self._slots:
                self._slots.move_to_end(database)

    def take_idle(self) -> list[LiveSession]:
        """Syncs that are too many or too old, taken out; the caller lets their copies go."""
        oldest_ms = self.clock_ms() - self.idle_ms
        taken: list[LiveSession] = []
        with self._lock:
            surplus = sum(slot.live is not None for slot in self._slots.values()) - self.most
            for database, slot in list(self._slots.items()):
                if slot.live is None or slot.guests:
                    continue
                if len(taken) >= surplus and slot.used_ms > oldest_ms:
                    break
                taken.append(slot.live)
                del self._slots[database]
        return taken

    def take_all(self) -> list[LiveSession]:
        """All running syncs, taken out of their slots."""
        with self._lock:
            taken = [slot.live for slot in self._slots.values() if slot.live is not None]
            self._slots.clear()
        return taken


class Entered:
    """The block within which a request is alone with its database's slot."""

    __slots__ = ("_database", "_slot", "_slots")

    def __init__(self, slots: Slots, database: DatabaseId) -> None:
        self._slots, self._database = slots, database

    def __enter__(self) -> Slot:
        slot = self._slot = self._slots._come(self._database)  # noqa: SLF001 - one thing in two classes
        try:
            slot.lock.__enter__()
        except BaseException:
            self._slots._leave(self._database, slot)  # noqa: SLF001
            raise
        return slot

    def __exit__(self, *error: object) -> None:
        try:
            self._slot.lock.__exit__(None, None, None)
        finally:
            self._slots._leave(self._database, self._slot)  # noqa: SLF001
