"""The translator between the wire's JSON and protobuf columns."""

from __future__ import annotations

import threading
import time

import pytest

from storage.collection.engine.codec import Codec, DeckConfigRow, DeckRow, NotetypeRows
from storage.collection.engine.notetype_json import Part
from storage.collection.engine.scratch import Engine
from storage.collection.errors import InvalidChange
from storage.errors import Corrupt

TODAY = {key: [0, 0] for key in ("lrnToday", "revToday", "newToday", "timeToday")}


def deck(deck_id=77, name="Deck", **more):
    return {
        "id": deck_id,
        "name": name,
        "mod": 5,
        "usn": 3,
        "collapsed": False,
        "dyn": 0,
        "conf": 1,
        **TODAY,
    } | more


def notetype(**more):
    return {
        "id": 77, "name": "N", "type": 0, "mod": 5, "usn": 3, "sortf": 0, "did": None, "css": "",
        "tmpls": [{"name": "T", "ord": 0, "qfmt": "{{F}}", "afmt": ""}],
        "flds": [{"name": "F", "ord": 0, "sticky": False, "rtl": False, "font": "Arial", "size": 20}],
    } | more  # fmt: skip


def test_a_deck_comes_back_as_it_went(codec):
    sent = deck(name="A::B", desc="text", future={"x": [1, 2.5]}, extendNew=4)
    (row,) = codec.deck_rows([sent])
    assert (row.id, row.name, row.mtime_secs, row.usn) == (77, "A\x1fB", 5, 3)
    (back,) = codec.deck_dicts([row])
    assert sent.items() <= back.items()


def test_deck_options_come_back_as_they_went(codec):
    (sent,) = codec.deck_config_dicts([DeckConfigRow(1, "Options", 5, 3, b"")])
    sent |= {"future": [1], "desiredRetention": 0.85, "usn": -1, "mod": 9}
    (row,) = codec.deck_config_rows([sent])
    assert (row.id, row.name, row.mtime_secs, row.usn) == (1, "Options", 9, -1)
    assert codec.deck_config_dicts([row]) == [sent]


def test_a_notetype_comes_back_as_it_went(codec):
    sent = notetype(req=[[0, "any", [0]]], future={"x": 1}, name='"N"')
    (rows,) = codec.notetype_rows([sent])
    (back,) = codec.notetype_dicts([rows])
    assert sent.keys() <= back.keys()
    assert back["future"] == {"x": 1}
    assert (back["name"], back["req"]) == ('"N"', [[0, "any", [0]]])
    assert back["tmpls"][0]["qfmt"] == "{{F}}"
    assert codec.notetype_rows([back]) == [rows]


def test_several_of_one_name_are_not_confused(codec):
    rows = codec.deck_rows([deck(1, "Same"), deck(2, "same"), deck(3, "SAME")])
    assert [(row.id, row.name) for row in rows] == [(1, "Same"), (2, "same"), (3, "SAME")]
    assert [back["name"] for back in codec.deck_dicts(rows)] == ["Same", "same", "SAME"]
    notetypes = codec.notetype_rows([notetype(), notetype(id=78)])
    assert [back["id"] for back in codec.notetype_dicts(notetypes)] == [77, 78]


def test_rows_that_cannot_be_decoded_are_corrupt(codec):
    with pytest.raises(Corrupt):
        codec.deck_dicts([DeckRow(1, "x", 0, 0, b"\xff", b"")])
    with pytest.raises(Corrupt):
        codec.deck_config_dicts([DeckConfigRow(1, "x", 0, 0, b"\xff")])
    with pytest.raises(Corrupt):
        codec.notetype_dicts([NotetypeRows(1, "x", 0, 0, b"", [Part(0, "f", b"\xff")], [])])


def test_nothing_of_one_user_is_left_for_the_next(codec):
    secret = "what only one user may see"
    with pytest.raises(InvalidChange):
        codec.deck_rows([deck(name=secret), deck(0, secret)])
    with pytest.raises(InvalidChange):
        codec.notetype_rows([notetype(name=secret, css=secret), notetype(id=0)])
    codec.deck_dicts(codec.deck_rows([deck(name=secret, desc=secret)]))
    codec.notetype_dicts(codec.notetype_rows([notetype(name=secret, css=secret)]))
    for engine in codec._idle:
        for table in ("decks", "deck_config", "notetypes", "fields", "templates", "notes", "cards"):
            assert engine._backend.db_query(f"SELECT count() FROM {table}", [], first_row_only=True) == [[0]]


def test_an_engine_that_raised_is_not_used_again():
    codec = Codec()
    codec.deck_rows([deck()])
    (first,) = codec._idle
    with pytest.raises(InvalidChange):
        codec.deck_rows([deck(0)])
    assert first not in codec._idle
    assert codec.deck_rows([deck()])[0].name == "Deck"


def test_a_panic_of_the_engine_does_not_last(monkeypatch):
    class Panic(BaseException):
        """As the engine's panics, no Exception."""

    codec = Codec()
    codec.deck_rows([deck()])

    def panic(*_):
        raise Panic

    monkeypatch.setattr(codec._idle[0], "deck_row", panic)
    with pytest.raises(InvalidChange):
        codec.deck_rows([deck()])
    assert codec.deck_rows([deck()])[0].id == 77


def test_threads_do_not_get_into_each_others_way():
    codec = Codec()
    faults = []

    def work(number):
        for _ in range(50):
            (row,) = codec.deck_rows([deck(number, f"Deck {number}")])
            (back,) = codec.deck_dicts([row])
            (rows,) = codec.notetype_rows([notetype(id=number, css=f"{number}")])
            (model,) = codec.notetype_dicts([rows])
            if (back["id"], back["name"], model["css"]) != (number, f"Deck {number}", str(number)):
                faults.append(back)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert 1 <= len(codec._idle) <= 2


def test_a_strangers_templates_are_not_parsed(codec):
    deep = "{{#F}}" * 100_000
    (rows,) = codec.notetype_rows([notetype(tmpls=[{"name": "T", "ord": 0, "qfmt": deep, "afmt": deep}])])
    (back,) = codec.notetype_dicts([rows])
    assert back["tmpls"][0]["qfmt"] == deep


def test_json_that_is_nested_too_deeply_is_refused(codec):
    nested = []
    for _ in range(300):
        nested = [nested]
    with pytest.raises(InvalidChange):
        codec.deck_rows([deck(future=nested)])


def test_text_without_markup_needs_no_engine():
    codec = Codec()
    assert codec.strip_html(["plain", "", "日本語"]) == ["plain", "", "日本語"]
    assert not codec._idle
    assert codec.strip_html(["<b>x</b>", "y"]) == ["x", "y"]


def test_a_thousand_decks_and_notetypes_take_no_time(codec):
    decks = [deck(number, f"Deck {number}") for number in range(1, 1001)]
    notetypes = [notetype(id=number) for number in range(1, 1001)]
    codec.deck_rows([deck()])
    began = time.process_time()
    codec.deck_dicts(codec.deck_rows(decks))
    codec.notetype_dicts(codec.notetype_rows(notetypes))
    assert time.process_time() - began < 2


def test_an_engine_keeps_nothing_between_calls():
    engine = Engine()
    engine.deck_row(b'{"id":5,"name":"x","mod":1,"usn":1,"collapsed":false,"dyn":0,"conf":1,"lrnToday":[0,0],'
                    b'"revToday":[0,0],"newToday":[0,0],"timeToday":[0,0]}')  # fmt: skip
    assert engine._backend.db_query("SELECT count() FROM decks", [], first_row_only=True) == [[0]]
