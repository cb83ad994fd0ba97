"""Modules that are imported when they are first used: what is large and not needed to start."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LazyModule:
    """Stands in for a module; its first use imports it, in whichever thread that happens."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(import_module(self._name), attribute)
        setattr(self, attribute, found)  # so that the next use is a plain attribute
        return found
