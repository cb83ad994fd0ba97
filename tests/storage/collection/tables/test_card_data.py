"""The short way for card data that is canonical already ends where the long one does."""

from __future__ import annotations

import random

import pytest

from storage.collection.tables import card_data


@pytest.mark.parametrize(
    "data",
    [
        "{}",
        '{"pos":0}',
        '{"pos":123456789}',
        '{"s":0.0,"d":0.0}',
        '{"s":399.9999,"d":99.999}',
        '{"s":0.0001,"d":0.001,"dr":0.01,"decay":0.001}',
        '{"pos":1,"s":12.3456,"d":5.5,"dr":0.9,"decay":0.1542,"lrt":1700000000}'.replace("0.1542", "0.154"),
        '{"cd":"{\\"a\\":1}"}',
        '{"lrt":1700000000,"cd":"é\x7f"}',
    ],
)
def test_canonical_data_stays(data):
    assert card_data._CANONICAL.fullmatch(data)
    assert card_data.canonical(data) == data


@pytest.mark.parametrize(
    "data",
    [
        "{",
        "{,}",
        '{"pos":1,}',
        '{"pos":01}',
        '{"pos":1"lrt":2}',
        '{"lrt":2,"pos":1}',
        '{"s":1.5}',
        '{"d":1.5}',
        '{"s":1.50,"d":1.0}',
        '{"s":01.5,"d":1.0}',
        '{"s":1.23456,"d":1.0}',
        '{"s":400.1234,"d":1.0}',
        '{"dr":0.900}',
        '{"cd":"{}"}',
        '{"cd":""}',
        '{"cd":"\\n"}',
        '{"cd":"a\x01"}',
        '{"cd":"a\\\\"}',
        '{"cd":"\\\\"}"}',
        "{} ",
        '{"pos":1}\n',
    ],
)
def test_anything_else_goes_the_long_way(data):
    assert not card_data._CANONICAL.fullmatch(data)


def test_what_takes_the_short_way_would_not_be_changed_by_the_long_one(monkeypatch):
    source = random.Random(5)

    def decimal(top, places):
        return f"{source.uniform(0, top):.{source.randint(1, places)}f}"

    short = []
    for _ in range(40_000):
        members = [
            f'"pos":{source.randrange(10**9)}',
            f'"s":{decimal(source.choice([0.01, 1, 400]), 4)},"d":{decimal(100, 3)}',
            f'"dr":{decimal(10, 2)}',
            f'"decay":{decimal(10, 3)}',
            f'"lrt":{source.randrange(10**12)}',
        ]
        data = "{" + ",".join(member for member in members if source.random() < 0.7) + "}"
        if card_data._CANONICAL.fullmatch(data):
            short.append(data)
    assert len(short) > 15_000
    monkeypatch.setattr(card_data, "_CANONICAL", card_data.re.compile("(?!)"))
    assert [data for data in short if card_data.canonical(data) != data] == []
