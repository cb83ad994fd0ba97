"""Reads the object store's own clock. Used by sweeps, which must not delete by this machine's clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from storage.errors import DeletionUnsafe, Unavailable
from storage.objects.base import ObjectStore

CLOCK_KEY: Final = "upkeep/clock"
_CONTENT: Final = b"written again and again to learn the time by the store's clock\n"
_MOST_APART_MS: Final = 3_600_000


def read_clock(objects: ObjectStore, clock_ms: Callable[[], int]) -> int:
    """The time by the store's clock: the modification time of an object that is written for this.

    Raises: DeletionUnsafe if `clock_ms` differs by more than an hour, as one of the two clocks is wrong then.
    """
    objects.put(CLOCK_KEY, _CONTENT)
    stat = objects.find(CLOCK_KEY)
    if stat is None:
        raise Unavailable(f"{CLOCK_KEY} is not there right after it was written")
    apart_ms = clock_ms() - stat.modified_ms
    if abs(apart_ms) > _MOST_APART_MS:
        way = "ahead of" if apart_ms > 0 else "behind"
        raise DeletionUnsafe(
            f"this machine's clock is {abs(apart_ms) // 60_000} minutes {way} the store's: nothing is deleted"
        )
    return stat.modified_ms
