"""Whether everything that the server needs answers: `/ready`, and the metric of the same name."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

_LOG = logging.getLogger("ankisyncd")


@dataclass(frozen=True, slots=True)
class Service:
    """Something that the server needs."""

    look: Callable[[], str | None]
    """What is wrong with it, or None; may raise anything."""
    keep_s: float
    """How long an answer counts before it is asked again."""


class Fault(msgspec.Struct, frozen=True):
    """Why a service cannot be used."""

    kind: str
    """In a word, for everybody."""
    reason: str
    """For the operator: it may name places."""


class Readiness:
    """Asks the services, and keeps their answers for some seconds.

    A caller that comes while they are being asked gets the previous answers.
    """

    def __init__(self, services: Mapping[str, Service], monotonic_s: Callable[[], float]) -> None:
        self._services, self._monotonic_s = services, monotonic_s
        self._found: dict[str, tuple[float, Fault | None]] = {}
        self._asking = threading.Lock()

    def look(self) -> dict[str, Fault | None]:
        """What is wrong with each service."""
        is_first = len(self._found) < len(self._services)
        if self._asking.acquire(blocking=is_first):
            try:
                for name, service in self._services.items():
                    self._renew(name, service)
            finally:
                self._asking.release()
        return {name: fault for name, (_, fault) in self._found.items()}

    def _renew(self, name: str, service: Service) -> None:
        asked_s, before = self._found.get(name, (None, None))
        now_s = self._monotonic_s()
        if asked_s is not None and now_s - asked_s < service.keep_s:
            return
        fault = _fault_of(service)
        self._found[name] = self._monotonic_s(), fault
        if fault is not None and before is None:
            _LOG.warning("not ready: %s: %s", name, fault.reason)
        elif fault is None and before is not None:
            _LOG.warning("ready again: %s", name)


def _fault_of(service: Service) -> Fault | None:
    try:
        reason = service.look()
    except Exception as exc:  # noqa: BLE001 - whatever it is, the service cannot be used
        return Fault(type(exc).__name__, f"{type(exc).__name__}: {exc}")
    return None if reason is None else Fault("Misconfigured", reason)
