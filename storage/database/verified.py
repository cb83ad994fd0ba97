"""When a restore was last verified: the name of a small object, of which the newest counts."""

from __future__ import annotations

from typing import Final

from storage.objects.base import ObjectStore

PREFIX: Final = "upkeep/verified/"


def note_verified(objects: ObjectStore, now_ms: int) -> None:
    """Note that a share of the users was restored from objects alone, and compared, at `now_ms`."""
    older = [stat.key for stat in objects.list(PREFIX)]
    key = f"{PREFIX}{now_ms:016x}"
    objects.put(key, b"a restore was verified at this time\n")
    objects.delete([name for name in older if name < key])


def last_verified_ms(objects: ObjectStore) -> int | None:
    """When that was last done; None if it never was."""
    names = [stat.key.removeprefix(PREFIX) for stat in objects.list(PREFIX)]
    return max((int(name, 16) for name in names), default=None)
