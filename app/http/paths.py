"""Path spellings that clients and people use -> the one form that the blueprints know.

`/prefix/sync/meta`, `//sync/meta` and `/sync/sync/meta` are all `/sync/meta`: users point clients
at addresses with and without `/sync/`, and put the server behind a prefix.
"""

from __future__ import annotations

_ROOMS = frozenset({"sync", "msync"})


def canonical_path(path: str) -> str:
    """What counts is the end: `sync/<method>`, `msync/<method>` or `health`; anything else stays."""
    head, _, last = path.rpartition("/")
    room = head.rstrip("/").rpartition("/")[2]
    if last and room in _ROOMS:
        return f"/{room}/{last}"
    return "/health" if last == "health" else path
