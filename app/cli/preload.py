"""Imports what every worker needs before they are forked: it is done once, and its memory is shared."""

from __future__ import annotations

import gc
from importlib import import_module

import gevent.events
from gevent import monkey

_MODULES = (
    "app.main",
    "app.web.room",
    # what gevent's patches bring in, which the worker applies
    "gevent.builtins",
    "gevent.fileobject",
    "gevent.os",
    "gevent.pywsgi",
    "gevent.queue",
    "gevent.select",
    "gevent.selectors",
    "gevent.signal",
    "gevent.socket",
    "gevent.ssl",
    "gevent.subprocess",
    "gevent.threading",
    "gevent.time",
)


def load_modules() -> None:
    """Import them. Clients, connections and threads are the workers' own, and no import makes any.

    Modules may keep a lock or a thread-local that they import by name, so `threading` is patched before.
    All other patches are left to the worker: gunicorn's own process needs real signals and real waiting.
    The SDK is left to it too: it keeps what has to be patched first.
    """
    # Or each of some 25 patches reads the metadata of all installed packages for plugins of gevent: 100 ms.
    gevent.events.notify_and_call_entry_points = gevent.events.notify
    monkey.patch_thread()
    for name in _MODULES:
        import_module(name)
    gc.collect()
    gc.freeze()  # the collector would write to each object, and so copy the memory that is shared
