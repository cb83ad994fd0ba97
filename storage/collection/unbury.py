"""Unburies cards in the first sync of a day, as the official server does. Used by `collection`, `unseen`."""

from __future__ import annotations

from typing import Any, NamedTuple

import apsw

from storage.collection.records import Row
from storage.collection.tables import cards, config
from storage.collection.timing import days_elapsed

_DEFAULT_ROLLOVER_HOUR = 4
_LAST_HOUR = 23
_DAYS_OF_A_CLOCK_GONE_BACK = 7

_BURIED = """
    WITH RECURSIVE used(did) AS (
        SELECT min(did) FROM cards
        UNION ALL
        SELECT (SELECT min(did) FROM cards WHERE did > used.did) FROM used WHERE used.did IS NOT NULL
    )
    SELECT c.id FROM used CROSS JOIN cards AS c INDEXED BY ix_cards_sched
    ON c.did = used.did AND c.queue IN (-2, -3)
"""
"""Searches the index (did, queue, due) once for each deck with cards, as there is no index on the queue."""

_TYPE, _QUEUE, _DUE = 6, 7, 8
_NEW, _LEARNING, _REVIEW, _LEARNING_BY_DAY = range(4)
_TYPE_REVIEW = 2
_QUEUES_BURIED = (-2, -3)
_TYPES_LEARNING = (1, 3)
_TIMES_FROM_S = 1_000_000_000
"""The `due` of a learning card is a time if it is larger than this, else a day."""


class Unburying(NamedTuple):
    """The changes of the first sync of a day."""

    is_due: bool
    """Whether buried cards go back into their queues."""
    config: dict[str, int]
    """Keys of the config that are written."""


def plan(connection: apsw.Connection, now_s: int) -> Unburying:
    """The changes to make: none if cards have been unburied today already. Writes nothing."""
    written: dict[str, int] = {}
    today = _today(connection, now_s, written)
    last = config.find_integer(connection, "lastUnburied", config.UINT32) or 0
    # The second case: `last` was written with a clock that was more than a week ahead.
    is_due = last < today or today + _DAYS_OF_A_CLOCK_GONE_BACK < last
    if is_due:
        written["lastUnburied"] = today
    return Unburying(is_due, written)


def apply(connection: apsw.Connection, unburying: Unburying, usn: int, now_s: int) -> None:
    """Put buried cards back into their queues. Their USN and modification time do not change."""
    if unburying.is_due:
        buried: Any = connection.execute(_BURIED).fetchall()
        rows = cards.read(connection, [card for (card,) in buried])
        cards.replace(connection, [unburied(row) for row in rows])
    for key, value in unburying.config.items():
        config.write(connection, key, value, usn, now_s)


def unburied(card: Row) -> Row:
    """The card after unburying."""
    if card[_QUEUE] not in _QUEUES_BURIED:
        return card
    return (*card[:_QUEUE], _queue(card), *card[_DUE:])


def _queue(card: Row) -> int:
    """The queue of the card if it were not buried, by its type."""
    if card[_TYPE] in _TYPES_LEARNING:
        # Learning cards with a due time within the day, and those due on a later day.
        return _LEARNING if card[_DUE] > _TIMES_FROM_S else _LEARNING_BY_DAY
    return _REVIEW if card[_TYPE] == _TYPE_REVIEW else _NEW


def _today(connection: apsw.Connection, now_s: int, written: dict[str, int]) -> int:
    return days_elapsed(
        connection.execute("SELECT crt FROM col").get,
        now_s,
        created_west_min=_find_zone(connection, "creationOffset"),
        now_west_min=_find_zone(connection, "localOffset") or 0,
        rollover_hour=_rollover_hour(connection, written),
    )


def _rollover_hour(connection: apsw.Connection, written: dict[str, int]) -> int | None:
    if config.scheduler_version(connection) != config.SCHEDULER_V2:
        return None
    hour = config.find_integer(connection, "rollover", config.UINT8)
    if hour is None:
        # An old client did not set it; the official server writes the default, too.
        written["rollover"] = _DEFAULT_ROLLOVER_HOUR
        return _DEFAULT_ROLLOVER_HOUR
    return min(hour, _LAST_HOUR)


def _find_zone(connection: apsw.Connection, key: str) -> int | None:
    """A time zone in minutes west of UTC; a day or more counts as missing."""
    minutes = config.find_integer(connection, key, config.INT32)
    return minutes if minutes is not None and abs(minutes) < 24 * 60 else None
