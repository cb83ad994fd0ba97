"""How large the message of each method may be: its bytes when unpacked, and the values in it.

Real messages are far below these numbers; what they bound is the memory that one request can take.
SECURITY.md lists them for operators.
"""

from __future__ import annotations

from typing import NamedTuple

_KIB, _MIB = 1024, 1024 * 1024


class MessageLimits(NamedTuple):
    """The most bytes and values (see `app.json_reader.check_structure`) of one message."""

    size_bytes: int
    values: int


LOGIN = MessageLimits(16 * _KIB, 1000)
"""A name and a password, from a client that is not authenticated."""

SMALL = MessageLimits(64 * _KIB, 1000)

IDS = MessageLimits(16 * _MIB, 1_000_000)
"""Ids of deleted objects. Clients send 250 at a time, but AnkiDroid of old sends all of them with `start`:
room for 600,000 of them."""

CHANGES = MessageLimits(32 * _MIB, 1_000_000)
"""All changed notetypes, decks, options and tags at once. 100,000 tags have 100,000 values; a deck about 40,
a notetype about 200. The bytes are for scripts, fonts and pictures that people put into templates."""

ROWS = MessageLimits(_MIB * _MIB, 1_000_000)
"""Clients send 250 rows at a time, of which each has at most 19 values. Fields can be long: the limit of all
messages, which is a setting, is the one that counts for the bytes."""

NAMES = MessageLimits(_MIB, 10_000)
"""Of media files; clients ask for at most 25 at a time."""
