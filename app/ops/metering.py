"""How a process's stores and clients are watched; by default not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from storage.heads.base import HeadStore
from storage.objects.base import ObjectStore


def _same_heads(heads: HeadStore) -> HeadStore:
    return heads


def _same_objects(objects: ObjectStore) -> ObjectStore:
    return objects


def _nothing(_told: Any) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Metering:
    """What is put around the parts that are to be watched."""

    heads: Callable[[HeadStore], HeadStore] = _same_heads
    objects: Callable[[ObjectStore], ObjectStore] = _same_objects
    count: Callable[[str], None] = _nothing
    """Told of checkouts and evictions, see `storage.database.store.DatabaseStore`."""
    client: Callable[[Any], None] = _nothing
    """Given each client of the SDK."""
