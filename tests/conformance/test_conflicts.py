"""Both devices changed the same thing: the newer change wins, whoever syncs first."""

from __future__ import annotations

import pytest

from tests.conformance.device import Device, assert_same, converge

OLDER, NEWER = 1_700_000_000, 1_700_000_500
ORDERS = pytest.mark.parametrize("first_is_newer", [True, False], ids=["first is newer", "second is newer"])


def stamps(*, first_is_newer: bool) -> tuple[int, int]:
    return (NEWER, OLDER) if first_is_newer else (OLDER, NEWER)


@ORDERS
def test_the_newer_note_wins(pair: tuple[Device, Device], *, first_is_newer: bool) -> None:
    a, b = pair
    note = a.rows("select id from notes order by id")[0][0]
    stamp_a, stamp_b = stamps(first_is_newer=first_is_newer)
    a.set_fields(note, ["by a", ""], stamp_a)
    b.set_fields(note, ["by b", ""], stamp_b)
    converge(a, b)
    assert_same(a, b)
    winner = "by a\x1f" if first_is_newer else "by b\x1f"
    assert a.rows("select flds from notes where id=?", note) == [[winner]]


@ORDERS
def test_the_newer_card_wins(pair: tuple[Device, Device], *, first_is_newer: bool) -> None:
    a, b = pair
    card = a.rows("select id from cards order by id")[0][0]
    stamp_a, stamp_b = stamps(first_is_newer=first_is_newer)
    a.set_card(card, stamp_a, flags=1)
    b.set_card(card, stamp_b, flags=2)
    converge(a, b)
    assert_same(a, b)
    assert a.rows("select flags from cards where id=?", card) == [[1 if first_is_newer else 2]]


@ORDERS
def test_the_newer_deck_wins(pair: tuple[Device, Device], *, first_is_newer: bool) -> None:
    a, b = pair
    deck = a.add_deck("Other")
    stamp_a, stamp_b = stamps(first_is_newer=first_is_newer)
    # both lie behind what the server has, so give that an older stamp first
    a.describe_deck(deck, "start", OLDER - 1000)
    a.execute("update decks set usn=-1, mtime_secs=? where id=?", OLDER - 1000, deck)
    a.change_schema()
    a.first_upload()
    b.first_download()
    a.describe_deck(deck, "by a", stamp_a)
    b.describe_deck(deck, "by b", stamp_b)
    converge(a, b)
    assert_same(a, b)
    winner = "by a" if first_is_newer else "by b"
    assert winner in [found["desc"] for found in b.state()["decks"]]


@ORDERS
def test_the_newer_options_win(pair: tuple[Device, Device], *, first_is_newer: bool) -> None:
    a, b = pair
    options = a.add_options("Contested", 1)
    a.set_options(options, 1, OLDER - 1000)
    converge(a, b)
    stamp_a, stamp_b = stamps(first_is_newer=first_is_newer)
    a.set_options(options, 11, stamp_a)
    b.set_options(options, 22, stamp_b)
    converge(a, b)
    assert_same(a, b)
    assert (11 if first_is_newer else 22) in [found["new per day"] for found in b.state()["options"]]


@ORDERS
def test_the_newer_notetype_wins(pair: tuple[Device, Device], *, first_is_newer: bool) -> None:
    a, b = pair
    a.add_notetype("Contested", ["F"])
    a.style_notetype("Contested", "", OLDER - 1000)
    converge(a, b)
    stamp_a, stamp_b = stamps(first_is_newer=first_is_newer)
    a.style_notetype("Contested", ".a{}", stamp_a)
    b.style_notetype("Contested", ".b{}", stamp_b)
    converge(a, b)
    assert_same(a, b)
    assert (".a{}" if first_is_newer else ".b{}") in [found["css"] for found in b.state()["notetypes"]]


@ORDERS
def test_the_configuration_of_the_newer_collection_wins(
    pair: tuple[Device, Device], *, first_is_newer: bool
) -> None:
    a, b = pair
    a.set_config("x-owner", "a")
    b.set_config("x-owner", "b")
    a.settle()
    # beside the server's time of that sync
    finished = a.rows("select mod from col")[0][0]
    b.date_collection(finished - 5000 if first_is_newer else finished + 5000)
    b.settle()
    a.settle()
    b.settle()
    assert a.config("x-owner") == b.config("x-owner") == ("a" if first_is_newer else "b")


def test_equal_stamps_break_nothing(pair: tuple[Device, Device]) -> None:
    a, b = pair
    note = a.rows("select id from notes order by id")[0][0]
    a.set_fields(note, ["by a", ""], NEWER)
    b.set_fields(note, ["by b", ""], NEWER)
    converge(a, b)
    b.settle()
    a.settle()
    assert {row[0] for row in a.rows("select flds from notes where id=?", note)} <= {"by a\x1f", "by b\x1f"}


def test_reviews_of_both_devices_are_kept(pair: tuple[Device, Device]) -> None:
    a, b = pair
    before = a.rows("select count() from revlog")[0][0]
    a.review(2)
    b.review(3, later=5)
    converge(a, b)
    assert_same(a, b)
    assert a.rows("select count() from revlog")[0][0] == before + 5
