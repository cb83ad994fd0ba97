"""Modules that are imported when they are first used: what is large and not needed to start."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from storage.native import native_threads

_native = native_threads()
_import_turn: Final = _native.allocate_lock()
_importer: list[int] = []
"""The thread that has the turn, once for each import within an import."""


class LazyModule:
    """Stands in for a module; its first use imports it, in whichever thread that happens.

    One thread at a time imports. Two that import the same module would meet at the import system's own lock
    of that module, which gevent has replaced: the one that waits there is not always woken up.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(_import(self._name), attribute)
        setattr(self, attribute, found)  # so that the next use is a plain attribute
        return found


def _import(name: str) -> Any:
    me = _native.get_ident()
    is_within = me in _importer
    if not is_within:
        _import_turn.acquire()
    _importer.append(me)
    try:
        return import_module(name)
    finally:
        _importer.remove(me)
        if not is_within:
            _import_turn.release()
