"""Cards buried for a day come back at the first sync of the next one, as with the official server."""

from __future__ import annotations

import time

import pytest

from storage.collection import unbury
from storage.collection.timing import days_elapsed

NOW_S = int(time.time())
DAY_S = 86_400


def config(**entries):
    """Statements that set config keys to JSON texts."""
    return [
        f"INSERT OR REPLACE INTO config VALUES ('{key}', 0, 0, CAST('{value}' AS blob))"
        for key, value in entries.items()
    ]


BURIED = [
    "UPDATE cards SET queue = CASE id % 3 WHEN 0 THEN -1 WHEN 1 THEN -2 ELSE -3 END",
    "UPDATE cards SET type = id % 4",
    'UPDATE cards SET due = CASE WHEN id % 5 < 3 THEN 1700000000 ELSE 5 END, data = \'{"pos":5, "x":1}\'',
    "UPDATE cards SET did = id WHERE id % 7 = 0",
    "UPDATE cards SET due = 'x' WHERE id % 11 = 0",
]


def many_cards():
    values = ", ".join(
        f"({number}, 1, 1, 0, 5, 3, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, '')" for number in range(1, 200)
    )
    return [f"INSERT INTO cards VALUES {values}"]


CONFIGS = {
    "new collection": {},
    "unburied long ago": {"lastUnburied": "1"},
    "unburied in the far future": {"lastUnburied": "999999"},
    "no number": {"lastUnburied": '"5"'},
    "scheduler 1": {"schedVer": "1"},
    "unknown scheduler": {"schedVer": "3"},
    "zones": {"creationOffset": "-600", "localOffset": "300"},
    "zones out of range": {"creationOffset": "1440", "localOffset": "-1440"},
    "zones at the limit": {"creationOffset": "1439", "localOffset": "-1439"},
    "zones that are no integers": {"creationOffset": "1.0", "localOffset": "true"},
    "early rollover": {"rollover": "0", "creationOffset": "0"},
    "late rollover": {"rollover": "23", "creationOffset": "0"},
    "rollover out of range": {"rollover": "200"},
    "negative rollover": {"rollover": "-1"},
    "rollover that is no integer": {"rollover": "4.5", "creationOffset": "0"},
}


@pytest.mark.parametrize("entries", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("age_days", [-3, 0, 1, 400])
def test_the_day_is_counted_alike(duel, open_copy, base_file, session, entries, age_days):
    created = f"UPDATE col SET crt = {NOW_S - age_days * DAY_S - 7 * 3600}"
    start = open_copy(base_file, *many_cards(), *BURIED, created, *config(**entries))
    start.db.close()
    official, ours = (
        duel.official(start.path, session(min_usn=11)),
        duel.ours(start.path, session(min_usn=11)),
    )
    assert ours.tables["cards"] == official.tables["cards"]
    assert ours.tables["config"] == official.tables["config"]


def test_a_rollover_that_is_missing_is_set(duel, open_copy, base_file, session):
    start = open_copy(base_file, "DELETE FROM config WHERE key = 'rollover'")
    start.db.close()
    official, ours = duel.official(start.path, session()), duel.ours(start.path, session())
    assert ours.tables["config"] == official.tables["config"]
    assert {"KEY": "rollover", "usn": 10, "mtime_secs": "now", "val": 4} in ours.tables["config"]


def test_the_second_sync_of_a_day_brings_nothing_back(open_copy, base_file):
    ours = open_copy(base_file)
    ours.merge.unbury(ours.merge.plan_unburying(NOW_S), NOW_S)
    ours.db.execute("UPDATE cards SET queue = -2")
    ours.merge.unbury(ours.merge.plan_unburying(NOW_S), NOW_S)
    assert ours.rows("SELECT DISTINCT queue FROM cards") == [(-2,)]
    ours.merge.unbury(ours.merge.plan_unburying(NOW_S + DAY_S), NOW_S + DAY_S)
    assert ours.rows("SELECT count() FROM cards WHERE queue = -2") == [(0,)]


def test_buried_cards_are_found_without_reading_all_cards(ours):
    plan = ours.rows(f"EXPLAIN QUERY PLAN {unbury._BURIED}")
    assert any("ix_cards_sched (did=? AND queue=?)" in detail for *_, detail in plan)
    assert not any("SCAN c" in detail for *_, detail in plan)


@pytest.mark.parametrize(
    ("created_s", "now_s", "zones", "rollover_hour", "days"),
    [
        (0, 86_399, (None, 0), None, 0),
        (0, 86_400, (None, 0), None, 1),
        (86_400, 0, (None, 0), None, 2**32 - 1),
        (14_400, 86_400 + 14_399, (None, 0), 4, 0),
        (14_400, 86_400 + 14_400, (None, 0), 4, 1),
        (0, 86_400 + 14_399, (0, 0), 4, 0),
        (0, 86_400 + 14_400, (0, 0), 4, 1),
        (0, 86_400 + 14_400, (0, 60), 4, 0),
        (0, 86_400 + 18_000, (-600, 60), 4, 1),
        (86_400 * 10, 0, (0, 0), 4, 0),
    ],
)
def test_days_begin_at_the_rollover_of_the_clients_zone(created_s, now_s, zones, rollover_hour, days):
    created_west_min, now_west_min = zones
    assert days == days_elapsed(
        created_s,
        now_s,
        created_west_min=created_west_min,
        now_west_min=now_west_min,
        rollover_hour=rollover_hour,
    )
