"""Real threads, also in a process where a thread is a greenlet.

Their work must not touch greenlets, nor locks that gevent has replaced.
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
    """Looked up at each use: the replacement may come at any time before."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return NativeThreads(_thread.start_new_thread, _thread.allocate_lock, _thread.get_ident)
    names = ["start_new_thread", "allocate_lock", "get_ident"]
    return NativeThreads(*monkey.get_original("_thread", names))
