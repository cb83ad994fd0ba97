"""`finish`: stamp the collection; the commit that follows makes it the user's."""

from __future__ import annotations

from app.sync.state import SyncState


def finish(state: SyncState) -> int:
    """The new time of modification, in ms, which the client takes over.

    It is later than the last one also where this machine's clock is behind another's.
    """
    now_ms = max(state.now_ms, int(state.collection.stamps()["mod"]) + 1)
    state.collection.finish(now_ms)
    return now_ms
