"""Deletions, between the wire's form and the collection's."""

from __future__ import annotations

from app.sync import messages
from storage.collection.records import Graves

NONE = messages.Graves([], [], [])


def to_storage(graves: messages.Graves) -> Graves:
    """The wire's form to the collection's."""
    return Graves(cards=graves.cards, notes=graves.notes, decks=graves.decks)


def to_wire(graves: Graves) -> messages.Graves:
    """The collection's form to the wire's."""
    return messages.Graves(cards=graves.cards, decks=graves.decks, notes=graves.notes)
