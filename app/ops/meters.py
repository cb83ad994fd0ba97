"""Records the metrics of this process in files that all workers share, and gives those of all workers.

prometheus-client in its multiprocess mode: each worker has memory-mapped files of its own, in a folder that
the server empties at its start. A value costs about a microsecond.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any, Final

import prometheus_client
from prometheus_client.multiprocess import MultiProcessCollector

from app.ops.catalogue import BY_NAME, Kind, Metric
from storage.types import Offload

_READS: Final = 20
_PAUSE_S: Final = 0.02


class Meters:
    """The metrics of one worker process; to be made after the fork."""

    content_type: str = prometheus_client.CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, folder: Path, offload: Offload[bytes]) -> None:
        """`folder` is the one that PROMETHEUS_MULTIPROC_DIR names."""
        self._offload = offload
        self._registry = prometheus_client.CollectorRegistry()
        MultiProcessCollector(self._registry, str(folder))  # type: ignore[no-untyped-call]
        self._families: dict[str, Any] = {}
        self._children: dict[tuple[str, ...], Any] = {}

    def child(self, name: str, *labels: str) -> Any:
        """The metric with these values of its labels, as prometheus-client has it; callers may keep it."""
        key = (name, *labels)
        child = self._children.get(key)
        if child is None:
            family = self._families.get(name)
            if family is None:
                # Not all at once: a gauge exists, with 0, as soon as it is made.
                family = self._families[name] = _made(BY_NAME[name])
            child = self._children[key] = family.labels(*labels) if labels else family
        return child

    def add(self, name: str, *labels: str) -> None:
        """Count one."""
        self.child(name, *labels).inc()

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Add a time to a histogram."""
        self.child(name, *labels).observe(seconds)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        self.child(name, *labels).set(value)

    def expose(self) -> bytes:
        """The metrics of all workers in Prometheus's text format."""
        return self._offload(self._read)

    def _read(self) -> bytes:
        """Read again if a worker is making its files meanwhile: a new one is empty for a moment."""
        for _ in range(_READS - 1):
            try:
                return prometheus_client.generate_latest(self._registry)
            except (struct.error, ValueError, FileNotFoundError):
                time.sleep(_PAUSE_S)
        return prometheus_client.generate_latest(self._registry)


def _made(metric: Metric) -> Any:
    if metric.kind is Kind.HISTOGRAM:
        return prometheus_client.Histogram(
            metric.name, metric.help, metric.labels, registry=None, buckets=metric.buckets
        )
    if metric.kind is Kind.GAUGE:
        mode: Any = metric.mode
        return prometheus_client.Gauge(
            metric.name, metric.help, metric.labels, registry=None, multiprocess_mode=mode
        )
    return prometheus_client.Counter(metric.name, metric.help, metric.labels, registry=None)
