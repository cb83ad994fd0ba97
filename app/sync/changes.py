"""`applyChanges`: exchange notetypes, decks, deck options, tags and the config in one go."""

from __future__ import annotations

from app.sync.messages import ApplyChangesRequest, ChangesMessage
from app.sync.state import SyncState
from storage.collection.records import Changes


def apply_changes(request: ApplyChangesRequest, state: SyncState) -> ChangesMessage:
    """Ours are gathered first, so that the client is not sent its own ones back.

    The config goes to the client only when ours is the newer collection.
    """
    collection = state.collection
    ours = _to_wire(collection.changes(state.client_usn, with_config=not state.client_is_newer))
    collection.apply_changes(_to_storage(request.changes), state.server_usn, state.now_ms // 1000)
    return ours


def _to_storage(changes: ChangesMessage) -> Changes:
    decks, configs = changes.decks_and_options
    return Changes(
        models=changes.notetypes,
        decks=decks,
        configs=configs,
        tags=changes.tags,
        conf=changes.config,
        crt=changes.created_s,
    )


def _to_wire(changes: Changes) -> ChangesMessage:
    return ChangesMessage(
        notetypes=changes.models,
        decks_and_options=(changes.decks, changes.configs),
        tags=changes.tags,
        config=changes.conf,
        created_s=changes.crt,
    )
