"""The one spelling of a path that the table of methods knows.

`/prefix/sync/meta`, `//sync/meta` and `/sync/sync/meta` are all `/sync/meta`: users point clients
at addresses with and without `/sync/`, and put the server behind a prefix.
"""

from __future__ import annotations

_PREFIXES = frozenset({"sync", "msync"})


def canonical_path(path: str) -> str:
    """What counts is the end: `sync/<method>`, `msync/<method>` or `health`; anything else stays."""
    head, _, last = path.rpartition("/")
    prefix = head.rstrip("/").rpartition("/")[2]
    if last and prefix in _PREFIXES:
        return f"/{prefix}/{last}"
    return "/health" if last == "health" else path
