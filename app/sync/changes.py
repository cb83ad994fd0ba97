"""Notetypes, decks, deck options, tags and the config, between the wire's form and the collection's."""

from __future__ import annotations

from app.sync.messages import ChangesMessage
from storage.collection.records import Changes

NONE = ChangesMessage(notetypes=[], decks_and_options=([], []), tags=[])


def to_storage(changes: ChangesMessage) -> Changes:
    """The wire's form to the collection's."""
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
    """The collection's form to the wire's."""
    return ChangesMessage(
        notetypes=changes.models,
        decks_and_options=(changes.decks, changes.configs),
        tags=changes.tags,
        config=changes.conf,
        created_s=changes.crt,
    )
