"""The metrics of a worker put together; imported only if there are any, as prometheus-client takes memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from app.ops import catalogue
from app.ops.metering import Metering
from app.ops.meters import Meters
from app.ops.readiness import Readiness
from app.ops.requests import RequestMeter
from app.ops.stores import AwsWatch, TimedStore
from app.ops.watch import Watch
from app.restorecheck import read_verified
from storage.database.maintenance.runs import last_finished_ms
from storage.database.store import DatabaseStore
from storage.heads.base import HeadStore
from storage.objects.base import ObjectStore
from storage.types import Offload

_EVENTS: Final = {
    "from copy": (catalogue.CHECKOUTS, "copy"),
    "from base": (catalogue.CHECKOUTS, "base"),
    "from store": (catalogue.CHECKOUTS, "store"),
    "evicted base": (catalogue.EVICTIONS, "bases"),
    "evicted copy": (catalogue.EVICTIONS, "copies"),
}


class Instruments:
    """Everything that measures in one worker process; to be made after the fork."""

    def __init__(self, folder: Path, offload: Offload[Any]) -> None:
        """`folder`: of the metrics of all workers."""
        self.meters = meters = Meters(folder, offload)
        self.observe = RequestMeter(meters, time.monotonic)
        self.metering = Metering(
            heads=lambda heads: cast(HeadStore, TimedStore(heads, "heads", meters)),
            objects=lambda objects: cast(ObjectStore, TimedStore(objects, "objects", meters)),
            count=lambda event: meters.add(*_EVENTS[event]),
            client=AwsWatch(meters),
        )

    def watch(
        self,
        readiness: Readiness,
        objects: ObjectStore,
        databases: DatabaseStore,
        waiting: Callable[[], int],
        nonce: Callable[[], str],
    ) -> Watch:
        """What looks at the rest; `waiting`: how many compactions are due."""
        return Watch(
            self.meters,
            self.observe,
            readiness,
            waiting=waiting,
            cache_bytes=databases.cache_bytes,
            times_ms={
                catalogue.MAINTAINED: lambda: last_finished_ms(objects, nonce),
                catalogue.VERIFIED: lambda: read_verified(objects, nonce).last_ms,
            },
        )
