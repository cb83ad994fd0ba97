"""Every kind of object travels both ways in incremental syncs, and deletions too."""

from __future__ import annotations

import pytest

from tests.conformance.device import NEWEST, Device, assert_same, converge

DAY = 86_400


def both_ways(pair: tuple[Device, Device]) -> list[tuple[Device, Device]]:
    a, b = pair
    return [(a, b), (b, a)]


def test_new_and_edited_notes_travel_with_their_cards(pair: tuple[Device, Device]) -> None:
    for sender, receiver in both_ways(pair):
        first, second = sender.add_notes([["new", "note"], ["<b>bold</b>", "日本語"]], tags=["a", "b::c"])
        converge(sender, receiver)
        assert_same(sender, receiver)
        receiver.set_fields(first, ["edited", "note"])
        sender.set_fields(second, ["", "empty first field"])
        converge(receiver, sender)
        assert_same(sender, receiver)


def test_sort_field_and_checksum_of_odd_fields_agree(pair: tuple[Device, Device]) -> None:
    a, b = pair
    fields = [
        ["007", "text that looks like a number"],
        ["1e5", ""],
        ["<img src='pic &amp; x.jpg'> caption", ""],
        ["[sound:a.mp3]", ""],
        ["  spaces&nbsp;", ""],
        ["<div><br></div>", ""],
        ["&lt;tag&gt; <!-- comment --> <style>x{}</style>ok", ""],
        ["decomposed e\u0301 n\u0303", ""],
        ["9007199254740993", ""],
        ["-12.50", ""],
        ['quote " and \\ backslash \t tab \u2028', "\U0001f9e0"],
    ]
    a.add_notes(fields)
    converge(a, b)
    assert_same(a, b)
    assert a.rows("select id, sfld, csum, typeof(sfld) from notes order by id") == b.rows(
        "select id, sfld, csum, typeof(sfld) from notes order by id"
    )


def test_cards_travel(pair: tuple[Device, Device]) -> None:
    for sender, receiver in both_ways(pair):
        card = sender.rows("select id from cards order by id")[0][0]
        sender.set_card(card, type=2, queue=2, due=812, ivl=37, factor=2650, reps=9, lapses=2, flags=3)
        converge(sender, receiver)
        assert_same(sender, receiver)
        assert receiver.rows("select ivl, factor from cards where id=?", card) == [[37, 2650]]
        receiver.set_card(card, queue=-1, data='{"pos":4,"cd":"{\\"custom\\":1}"}')
        converge(receiver, sender)
        assert sender.rows("select queue from cards where id=?", card) == [[-1]]


def test_reviews_travel(pair: tuple[Device, Device]) -> None:
    for sender, receiver in both_ways(pair):
        answered = sender.review(2)
        converge(sender, receiver)
        assert_same(sender, receiver)
        assert len(receiver.rows("select id from revlog where cid=?", answered[0])) >= 1


def test_decks_travel(pair: tuple[Device, Device]) -> None:
    for number, (sender, receiver) in enumerate(both_ways(pair)):
        deck = sender.add_deck(f"Parent {number}::Child ü")
        converge(sender, receiver)
        assert_same(sender, receiver)
        receiver.rename_deck(deck, f"Elsewhere {number}::Child")
        receiver.describe_deck(deck, "a *description*")
        converge(receiver, sender)
        assert_same(sender, receiver)


def test_filtered_decks_travel_with_their_cards(pair: tuple[Device, Device]) -> None:
    for number, (sender, receiver) in enumerate(both_ways(pair)):
        deck = sender.add_filtered_deck(f"Cram {number}", "deck:Default")
        assert sender.rows("select count() from cards where did=?", deck) == [[2]]
        converge(sender, receiver)
        assert_same(sender, receiver)
        receiver.empty_filtered_deck(deck)
        receiver.remove_deck(deck)
        converge(receiver, sender)
        assert_same(sender, receiver)
        assert sender.rows("select count() from cards where odid<>0") == [[0]]


def test_deck_options_travel(pair: tuple[Device, Device]) -> None:
    for number, (sender, receiver) in enumerate(both_ways(pair)):
        options = sender.add_options(f"Options {number}", 42)
        deck = sender.add_deck("Other")
        sender.use_options(deck, options)
        converge(sender, receiver)
        assert_same(sender, receiver)
        receiver.set_options(options, 43)
        converge(receiver, sender)
        assert_same(sender, receiver)
        assert 43 in [conf["new per day"] for conf in sender.state()["options"]]


def test_notetypes_travel(pair: tuple[Device, Device]) -> None:
    for number, (sender, receiver) in enumerate(both_ways(pair)):
        name = f"Kind {number}"
        sender.add_notetype(name, ["One", "Two", "Three"], templates=2)
        sender.add_notes([["1", "2", "3"]], notetype=name)
        converge(sender, receiver)
        assert_same(sender, receiver)
        receiver.style_notetype(name, ".card { color: red }")
        receiver.edit_template(name, "{{One}} {{Two}}!")
        converge(receiver, sender)
        assert_same(sender, receiver)


def test_a_renamed_field_reaches_the_other_device(pair: tuple[Device, Device]) -> None:
    a, b = pair
    b.rename_field("Basic", 1, "Rear")
    if b.sync() == "full":
        b.upload()
        a.first_download()
    converge(a, b)
    assert_same(a, b)
    assert ["Front", "Rear"] in [notetype["fields"] for notetype in a.state()["notetypes"]]


def test_tags_travel(pair: tuple[Device, Device]) -> None:
    for number, (sender, receiver) in enumerate(both_ways(pair)):
        notes = [row[0] for row in sender.rows("select id from notes")]
        sender.add_tags(notes, f"länge::{number} Zwei")
        converge(sender, receiver)
        assert_same(sender, receiver)
        assert f"länge::{number}" in [row[0] for row in receiver.state()["tags"]]


def test_configuration_and_creation_stamp_travel(pair: tuple[Device, Device]) -> None:
    for number, (sender, receiver) in enumerate(both_ways(pair)):
        value = {"nested": [1, 2.5, None, True, "ü"], "number": number}
        crt = 1_600_000_000 + number * DAY
        sender.set_config("x-test", value)
        sender.set_creation_stamp(crt)
        converge(sender, receiver)
        assert receiver.config("x-test") == value
        assert receiver.rows("select crt from col") == [[crt]]
        receiver.remove_config("x-test")
        converge(receiver, sender)
        assert "x-test" not in sender.all_config()


def test_keys_that_no_version_knows_survive(pair: tuple[Device, Device]) -> None:
    a, b = pair
    deck = a.add_deck("Odd")
    a.describe_deck(deck, "odd", **{"x-future": {"deep": [1, "zwei"]}})
    a.style_notetype("Basic", ".card{}", **{"x-addon": ["keep", 1]})
    converge(a, b)
    assert_same(a, b)
    found = b.state()
    assert {"x-future": {"deep": [1, "zwei"]}} in [thing["unknown"] for thing in found["decks"]]
    assert {"x-addon": ["keep", 1]} in [thing["unknown"] for thing in found["notetypes"]]


def test_deleted_notes_and_cards_vanish_everywhere(pair: tuple[Device, Device]) -> None:
    for sender, receiver in both_ways(pair):
        notes = sender.add_notes([[f"n{i}", ""] for i in range(6)])
        converge(sender, receiver)
        sender.remove_notes(notes[:2])
        cards = [row[0] for row in receiver.rows("select id from cards where nid=?", notes[2])]
        receiver.remove_cards(cards)
        converge(sender, receiver)
        assert_same(sender, receiver)
        left = {row[0] for row in receiver.rows("select id from notes")}
        assert left.isdisjoint(notes[:3])
        assert left.issuperset(notes[3:])


def test_deleted_decks_vanish_with_their_cards(pair: tuple[Device, Device]) -> None:
    for sender, receiver in both_ways(pair):
        deck = sender.add_deck("Doomed")
        sender.add_notes([["in the", "deck"]], deck="Doomed")
        converge(sender, receiver)
        receiver.remove_deck(deck)
        converge(receiver, sender)
        assert_same(sender, receiver)
        assert "Doomed" not in [found["name"] for found in sender.state()["decks"]]


def test_a_deletion_wins_over_an_edit_of_the_other_device(pair: tuple[Device, Device]) -> None:
    a, b = pair
    (note,) = a.add_notes([["edited and", "deleted"]])
    converge(a, b)
    a.remove_notes([note])
    b.set_fields(note, ["edited", "too late"])
    converge(a, b)
    assert_same(a, b)


def test_both_devices_change_everything_at_once(pair: tuple[Device, Device]) -> None:
    a, b = pair
    for later, (name, device) in enumerate((("a", a), ("b", b))):
        device.add_deck(f"Deck of {name}")
        device.add_options(f"Options of {name}", 5)
        device.add_notetype(f"Notetype of {name}", ["F", "G"])
        device.add_notes([[f"by {name}", ""]], notetype=f"Notetype of {name}", tags=[f"of-{name}"])
        device.review(1, later=later)
    converge(a, b)
    assert_same(a, b)
    names = {thing["name"] for thing in a.state()["decks"]}
    assert {"Deck of a", "Deck of b"} <= names


def test_the_same_deck_name_on_both_devices_stays_usable(pair: tuple[Device, Device]) -> None:
    a, b = pair
    for device in pair:
        device.add_notes([["in", "it"]], deck="Same")
    converge(a, b)
    converge(a, b)
    # which of the two is renamed differs, as each renames the one that comes in
    names = [sorted(deck["name"] for deck in device.state()["decks"]) for device in pair]
    assert names[0] == names[1]
    assert names[0][-2:] == ["Same", "Same+"]


@pytest.mark.parametrize("versions", [(NEWEST, NEWEST)], ids=["newest"])
def test_stored_objects_agree_byte_by_byte(pair: tuple[Device, Device]) -> None:
    a, b = pair
    deck = a.add_deck("Bytes::Ünder")
    a.describe_deck(deck, "words", **{"x-one": 1})
    a.use_options(deck, a.add_options("Options", 9))
    a.add_notetype("Shape", ["F1", "F2"], templates=2)
    a.add_filtered_deck("Filter", "deck:Other")
    a.set_config("x-list", [1, {"k": "v"}])
    converge(a, b)
    assert a.blobs() == b.blobs()
    assert a.all_config() == b.all_config()


@pytest.mark.parametrize("versions", [(NEWEST, NEWEST)], ids=["newest"])
def test_the_check_of_a_merged_collection_finds_nothing(pair: tuple[Device, Device]) -> None:
    a, b = pair
    a.add_notes([["x", "y"]], deck="Checked", tags=["t"])
    b.review(2)
    converge(a, b)
    assert b.check()[1] is True
