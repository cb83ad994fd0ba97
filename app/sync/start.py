"""`start`: fix the USNs of the sync, and tell the client what was deleted here."""

from __future__ import annotations

from app.sync.graves import to_storage, to_wire
from app.sync.messages import Graves, StartRequest
from app.sync.state import SyncState


def start(request: StartRequest, state: SyncState) -> Graves:
    """Our graves since the client's USN, gathered before those that AnkiDroid sends along."""
    collection = state.collection
    state.server_usn = collection.usn
    state.client_usn = request.client_usn
    state.client_is_newer = request.client_is_newer
    collection.unbury_if_day_rolled_over(state.now_ms // 1000)
    state.has_little_to_send = collection.has_few_pending(request.client_usn)
    ours = to_wire(collection.pending_graves(request.client_usn))
    if request.graves is not None:
        collection.apply_graves(to_storage(request.graves), state.server_usn)
    return ours
