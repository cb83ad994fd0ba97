"""`applyGraves`: delete what the client has deleted."""

from __future__ import annotations

from app.sync import messages
from app.sync.messages import ApplyGravesRequest
from app.sync.state import SyncState
from storage.collection.records import Graves


def apply_graves(request: ApplyGravesRequest, state: SyncState) -> None:
    """Exactly these ids go; no orphans are looked for."""
    state.collection.apply_graves(to_storage(request.graves), state.server_usn)


def to_storage(graves: messages.Graves) -> Graves:
    """The wire's form to the collection's."""
    return Graves(cards=graves.cards, notes=graves.notes, decks=graves.decks)


def to_wire(graves: Graves) -> messages.Graves:
    """The collection's form to the wire's."""
    return messages.Graves(cards=graves.cards, decks=graves.decks, notes=graves.notes)
