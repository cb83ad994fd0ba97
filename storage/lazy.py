"""Imports large modules at their first use, so that a process starts fast (numpy, the `anki` package)."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from storage.threads import native_threads

_native = native_threads()
_import_turn: Final = _native.allocate_lock()
_importer: list[int] = []
"""The thread that imports, once for each nested import."""


class LazyModule:
    """Used in place of a module; the first access to an attribute imports it, in the thread of the access.

    Only one thread imports at a time. Two native threads that import the same module would wait for each
    other at the import system's lock, which gevent has replaced, and the waiting one is not always woken
    up.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(_import(self._name), attribute)
        setattr(self, attribute, found)  # the next access does not call `__getattr__`
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
