"""Converts deletions between messages and `storage.collection`."""

from __future__ import annotations

from app.sync import messages
from storage.collection.records import Graves

NONE = messages.Graves([], [], [])


def to_storage(graves: messages.Graves) -> Graves:
    """From a message to the type of `storage.collection`."""
    return Graves(cards=graves.cards, notes=graves.notes, decks=graves.decks)


def to_wire(graves: Graves) -> messages.Graves:
    """From the type of `storage.collection` to a message."""
    return messages.Graves(cards=graves.cards, decks=graves.decks, notes=graves.notes)
