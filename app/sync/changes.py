"""Converts notetypes, decks, deck options, tags and config between messages and `storage.collection`."""

from __future__ import annotations

from app.sync.messages import ChangesMessage
from storage.collection.records import Changes

NONE = ChangesMessage(notetypes=[], decks_and_options=([], []), tags=[])


def to_storage(changes: ChangesMessage) -> Changes:
    """From a message to the type of `storage.collection`."""
    decks, configs = changes.decks_and_options
    return Changes(
        models=changes.notetypes,
        decks=decks,
        configs=configs,
        tags=changes.tags,
        conf=changes.config,
        crt=changes.created_s,
    )


def to_wire(changes: Changes) -> ChangesMessage:
    """From the type of `storage.collection` to a message."""
    return ChangesMessage(
        notetypes=changes.models,
        decks_and_options=(changes.decks, changes.configs),
        tags=changes.tags,
        config=changes.conf,
        created_s=changes.crt,
    )
