"""Native threads in a process whose `threading` module gevent has patched to use greenlets.

Used for blocking work that must not wait for gevent's pool. Code in these threads must not use greenlets, nor
locks that gevent has replaced.
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable
from typing import Any, NamedTuple


class NativeThreads(NamedTuple):
    """The functions of `_thread` as they were before gevent replaced them."""

    start_new_thread: Callable[..., Any]
    allocate_lock: Callable[[], Any]
    get_ident: Callable[[], int]


def native_threads() -> NativeThreads:
    """The original functions. Call it at each use, as gevent may patch the modules later than the import."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return NativeThreads(_thread.start_new_thread, _thread.allocate_lock, _thread.get_ident)
    names = ["start_new_thread", "allocate_lock", "get_ident"]
    return NativeThreads(*monkey.get_original("_thread", names))
