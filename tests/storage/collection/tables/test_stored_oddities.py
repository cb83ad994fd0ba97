"""Rows that other programs left in a collection are read as the official server reads them."""

from __future__ import annotations

import random

import pytest

ODDITIES = {
    "fractions": ["UPDATE cards SET mod = 2000.7, ivl = 3.9", "UPDATE revlog SET ivl = 1.5, lastIvl = -2.5"],
    "texts in cards": ["UPDATE cards SET due = 'x', odue = 'y', ivl = 'z', mod = '5 days'"],
    "fractions in due": ["UPDATE cards SET due = 5.5, odue = -1.5"],
    "due beyond 32 bits": ["UPDATE cards SET due = 3000000000, odue = -3000000000"],
    "texts in reviews": ["UPDATE revlog SET time = 'x', type = 'y', ivl = 'z', lastIvl = 'w'"],
    "reviews out of range": [
        "UPDATE revlog SET time = id * -1, type = id % 9",
        "UPDATE revlog SET time = 5000000000",
    ],
    "review types beyond a byte": ["UPDATE revlog SET type = 256 + id / 1000"],
    "fractions in reviews": ["UPDATE revlog SET time = 1.5, type = 1.5"],
    "blob as data": ["UPDATE cards SET data = CAST('{\"pos\":3}' AS blob)"],
    "checksums of other kinds": ["UPDATE notes SET csum = '', sfld = x'00'"],
    "spaces between tags": ["UPDATE notes SET tags = '  a   b\u3000c'"],
    "no fields": ["UPDATE notes SET flds = ''"],
}


@pytest.mark.parametrize("statements", ODDITIES.values(), ids=ODDITIES.keys())
def test_odd_rows_are_sent_alike(duel, open_copy, base_file, session, statements):
    start = open_copy(base_file, *statements)
    start.db.close()
    sent = session(min_usn=0)
    official, ours = duel.official(start.path, sent), duel.ours(start.path, sent)
    assert ours.rows == official.rows
    assert ours.tables == official.tables


def test_odd_rows_yield_alike(duel, open_copy, base_file, session, ids_of):
    start = open_copy(base_file, "UPDATE cards SET mod = 2000.7, usn = 7")
    start.db.close()
    cards = [
        [card_id, 1, 1, 0, 1999 + at % 3, 10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, ""]
        for at, card_id in enumerate(ids_of(start.path, "cards"))
    ]
    sent = session(chunks=[{"cards": cards}])
    assert duel.ours(start.path, sent).tables == duel.official(start.path, sent).tables


def test_random_card_data_is_rewritten_alike(duel, base_file, session):
    source = random.Random(20260501)

    def number():
        digits = source.choice([0, 1, 2, 3, 4, 5, 6, 8, 12])
        scale = 10.0 ** source.randint(-8, 14 if source.random() < 0.2 else 5)
        text = source.choice(
            [f"{source.uniform(-0.3, 1) * scale:.{digits}f}", f"{source.random() * scale:.{digits}e}"]
        )
        text = source.choice([text, text, text, str(source.randint(-9, 99999))])
        return "0" if text == "-0" else text  # a sign that Python's integers cannot hold

    def data():
        keys = source.sample(["pos", "s", "d", "dr", "decay", "lrt"], source.randint(2, 6))
        if source.random() < 0.7:
            keys = [*{"s", "d", *keys}]
        return "{" + ",".join(f'"{key}":{number()}' for key in keys) + "}"

    cards = [
        [card_id, 1, 1, 0, 2000, 10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, data()] for card_id in range(1, 5000)
    ]
    sent = session(min_usn=11, chunks=[{"cards": cards}])
    official, ours = duel.official(base_file, sent), duel.ours(base_file, sent)
    pairs = zip(official.tables["cards"], ours.tables["cards"], strict=True)
    asked = {row[0]: row[-1] for row in cards}
    assert [(asked[a["id"]], a["data"], b["data"]) for a, b in pairs if a["data"] != b["data"]][:20] == []
