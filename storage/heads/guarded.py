"""A head store that is unavailable while its records may be wrong (`storage.database.maintenance.mark`).

`app.main` wraps the head store of the server in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from storage.errors import StorageError, Unavailable
from storage.heads.base import HeadStore

_LOOK_EVERY_S: Final = 10.0


class GuardedHeadStore:
    """A head store all of whose methods raise `Unavailable` as long as `find_fault` returns a fault.

    `find_fault` is called again every ten seconds, so no restart is needed after a repair.
    """

    def __init__(
        self, heads: HeadStore, find_fault: Callable[[], str | None], monotonic_s: Callable[[], float]
    ) -> None:
        self._heads, self._find_fault, self._monotonic_s = heads, find_fault, monotonic_s
        self._fault: str | None = "the head records have not been looked at"
        self._looked_s = -_LOOK_EVERY_S

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """A method of the store that checks for a fault first."""

        def call(*args: Any, **options: Any) -> Any:
            self._look()
            return getattr(self._heads, method)(*args, **options)

        return call

    def _look(self) -> None:
        now_s = self._monotonic_s()
        if self._fault is not None and now_s - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = now_s
            try:
                self._fault = self._find_fault()
            except StorageError as exc:
                self._fault = str(exc)
        if self._fault is not None:
            raise Unavailable(f"no requests are served: {self._fault}")
