"""Each sync here is run by the official server and by ours; answers and tables must be the same."""

from __future__ import annotations

import pytest

from storage.collection.errors import InvalidChange


def deck(deck_id, name, **more):
    today = {key: [0, 0] for key in ("lrnToday", "revToday", "newToday", "timeToday")}
    known = {"id": deck_id, "name": name, "mod": 2000, "usn": 10, "collapsed": False, "dyn": 0, "conf": 1}
    return known | today | more


def filtered(deck_id, name, **more):
    return deck(deck_id, name, **{"dyn": 1, "resched": True, "terms": [["is:due", 100, 6]]} | more)


def options(config_id, name, **more):
    return {
        "id": config_id, "name": name, "mod": 2000, "usn": 10, "maxTaken": 60, "autoplay": True,
        "timer": 0,
        "replayq": True, "new": {"delays": [1, 10], "initialFactor": 2500, "ints": [1, 4, 7],
        "order": 1, "perDay": 20},
        "rev": {"ease4": 1.3, "ivlFct": 1, "maxIvl": 36500, "perDay": 200},
        "lapse": {"delays": [10], "leechAction": 0, "leechFails": 8, "minInt": 1, "mult": 0},
    } | more  # fmt: skip


def field(name, ord_, **more):
    return {"name": name, "ord": ord_, "sticky": False, "rtl": False, "font": "Arial", "size": 20} | more


def template(name, ord_, **more):
    return {"name": name, "ord": ord_, "qfmt": "{{Front}}", "afmt": "{{Back}}"} | more


def notetype(notetype_id, name, **more):
    return {
        "id": notetype_id, "name": name, "type": 0, "mod": 2000, "usn": 10, "sortf": 0, "did": None,
        "tmpls": [template("Card 1", 0)], "flds": [field("Front", 0), field("Back", 1)],
        "css": ".card {}",
        "latexPre": "a", "latexPost": "b", "req": [[0, "any", [0]]],
    } | more  # fmt: skip


def card(card_id, **more):
    row = {
        "id": card_id, "nid": 1, "did": 1, "ord": 0, "mod": 2000, "usn": 10, "type": 0,
        "queue": 0, "due": 1,
        "ivl": 0, "factor": 0, "reps": 0, "lapses": 0, "left": 0, "odue": 0, "odid": 0,
        "flags": 0, "data": "",
    } | more  # fmt: skip
    return list(row.values())


def note(note_id, mid, **more):
    row = {
        "id": note_id, "guid": f"g{note_id}", "mid": mid, "mod": 2000, "usn": 10, "tags": "",
        "flds": "a\x1fb",
        "sfld": "", "csum": "", "flags": 0, "data": "",
    } | more  # fmt: skip
    return list(row.values())


def agree(duel, path, session):
    official, ours = duel.official(path, session), duel.ours(path, session)
    assert ours.graves == official.graves
    assert ours.changes == official.changes
    assert ours.rows == official.rows
    for table, rows in official.tables.items():
        assert ours.tables[table] == rows, table


@pytest.fixture
def ids(base_file, connect):
    """Ids of the base collection: `ids("decks", "name = ...")`."""

    def find(table, where="1"):
        with connect(base_file) as db:
            return [row[0] for row in db.execute(f"SELECT id FROM {table} WHERE {where} ORDER BY id")]

    return find


def test_an_empty_sync_changes_nothing(duel, base_file, session):
    agree(duel, base_file, session())


@pytest.mark.parametrize("min_usn", [0, 3, 5, 8, 100, -1, -5])
def test_what_is_sent_depends_on_the_clients_usn(duel, base_file, session, min_usn):
    agree(duel, base_file, session(min_usn=min_usn))


def test_config_goes_out_when_ours_is_newer(duel, base_file, session):
    agree(duel, base_file, session(lnewer=False))


def test_graves_delete_exactly_these_objects(duel, base_file, session, ids):
    graves = {
        "cards": [*ids("cards")[:2], 99, 99],
        "notes": ids("notes")[:2],
        "decks": [*ids("decks", "name = 'zz'"), 12345],
    }
    agree(duel, base_file, session(graves=graves))


DECK_NAMES = {
    "free": "Fresh",
    "taken": "Spoken",
    "taken in another case": "sPOKEN",
    "taken in another case beyond ASCII": "éCRIT",
    "taken by a child": "Spoken::rare",
    "parents missing": "One::Two::Three",
    "empty parts": "a::::b",
    "three colons": "a:::b",
    "control characters": "a\x01b::c\nd\x1fe",
    "blanks": "  a :: b  ",
    "empty": "",
    "decomposed": "E\u0301crit",
}


@pytest.mark.parametrize("name", DECK_NAMES.values(), ids=DECK_NAMES.keys())
def test_deck_names_stay_unique_and_clean(duel, base_file, session, name):
    agree(duel, base_file, session(decks=[deck(77, name), deck(78, name), deck(79, name + "+")]))


CASES = {
    "sharp s": ["Straße", "STRASSE", "strasse", "STRAẞE"],
    "dotted I": ["İ", "i\u0307", "I\u0307", "\u0131", "I", "i"],
    "sigma": ["ΣΊΣΥΦΟΣ", "σίσυφος", "Σίσυφοσ"],
    "Kelvin": ["K", "k", "\u212a"],
    "long s": ["\u017f", "s", "S"],
    "ligature": ["ﬁ", "fi", "FI"],
    "Cherokee": ["\u13a0", "\uab70"],
    "Greek with iota": ["\u1fb3", "\u03b1\u03b9", "\u1fbc"],
    "Armenian": ["\u0587", "ե\u0582"],
    "Deseret": ["𐐀", "𐐨"],
    "Georgian": ["Ა", "ა"],
    "micro": ["µ", "μ"],
}


@pytest.mark.parametrize("names", CASES.values(), ids=CASES.keys())
def test_names_in_any_script_are_compared_alike(duel, base_file, session, names):
    decks = [deck(70 + at, f"x{name}") for at, name in enumerate(names)]
    models = [notetype(70 + at, f"x{name}") for at, name in enumerate(names)]
    tags = [f"x{name}::{at}" for name in names for at in range(2)] + names
    agree(duel, base_file, session(decks=decks, models=models, tags=tags))


@pytest.mark.parametrize("mod", [500, 1000, 1001])
def test_the_newer_deck_wins(duel, base_file, session, ids, mod):
    deck_id = ids("decks", "name = 'Spoken'")[0]
    agree(duel, base_file, session(decks=[deck(deck_id, "Renamed", mod=mod, desc="new")]))


def test_a_deck_may_take_a_name_that_an_earlier_one_gave_up(duel, base_file, session, ids):
    spoken, zz = ids("decks", "name = 'Spoken'")[0], ids("decks", "name = 'zz'")[0]
    agree(duel, base_file, session(decks=[deck(zz, "Spoken"), deck(spoken, "zz")]))


DECKS = {
    "unknown keys": deck(77, "u", future={"a": [1, 2.5, None]}, mid=5),
    "limits": deck(
        77, "l", newLimit=5, reviewLimit=6, newLimitToday={"limit": 3, "today": 9}, desiredRetention=88
    ),
    "bad limits": deck(77, "l", newLimit="x", reviewLimit=-6, newLimitToday=3, extendNew=-5, extendRev=2.5),
    "today of different days": deck(
        77, "t", lrnToday=[3, 4], revToday=[5, 6], newToday=[5, 7], timeToday=[5, 1000]
    ),
    "short todays": deck(77, "t", lrnToday=[3], revToday=[], newToday=["x", "y"]),
    "markdown": deck(77, "m", md=True, desc="*x*"),
    "texts for numbers": deck("77", "n", mod="2000", conf="1"),
    "no modification": {key: value for key, value in deck(77, "n").items() if key != "mod"},
    "boolean dyn": deck(77, "d", dyn=False),
    "obsolete return": deck(77, "d", **{"return": True}),
    "filtered": filtered(77, "f", delays=[1, 2.5], previewDelay=10, separate=True),
    "filtered with odd values": filtered(
        77, "f", delays="x", resched="true", terms=[["a", "20", 1], ["b", -5, 2]]
    ),
    "negative id": deck(-5, "neg"),
    "usn of a client": deck(77, "c", usn=-1),
}


@pytest.mark.parametrize("sent", DECKS.values(), ids=DECKS.keys())
def test_decks_are_translated_alike(duel, base_file, session, sent):
    agree(duel, base_file, session(decks=[sent]))


OPTIONS = {
    "plain": options(77, "o"),
    "same name as ours": options(77, "Default"),
    "unknown keys": options(77, "u", future=1, new={"delays": [], "initialFactor": 2500,
        "ints": [1, 4], "order": 0,
        "perDay": 5, "extra": [1]}, rev={"ease4": 1.3, "ivlFct": 1, "maxIvl": 5, "perDay": 2,
        "fuzz": 0.05}),
    "invalid parts": options(77, "i", new=5, rev=None, lapse="x", timer="y"),
    "fsrs": options(77, "f", fsrsParams6=[0.1, 1.23456789, 3], desiredRetention=0.87,
        weightSearch="deck:x",
        easyDaysPercentages=[1, 0.5, 0, 1, 1, 1, 1], fsrsWeights=[1.5]),
    "out of range": options(77, "r", new={"delays": [-1], "initialFactor": 65535, "ints": [0, 0,
        0], "order": 1,
        "perDay": 99999}, desiredRetention=2, sm2Retention=-1),
    "texts for numbers": options("77", "t", mod="2000"),
    "usn of a client": options(77, "c", usn=-1),
}  # fmt: skip


@pytest.mark.parametrize("sent", OPTIONS.values(), ids=OPTIONS.keys())
def test_deck_options_are_translated_alike(duel, base_file, session, sent):
    agree(duel, base_file, session(configs=[sent]))


@pytest.mark.parametrize("mod", [999, 1000, 1001])
def test_the_newer_deck_options_win(duel, base_file, session, mod):
    agree(duel, base_file, session(configs=[options(1, "Other", mod=mod)]))


NOTETYPES = {
    "plain": notetype(77, "n"),
    "taken name": notetype(77, "Basic"),
    "taken name in another case": notetype(77, "BASIC"),
    "quotes in names": notetype(77, 'a"b', flds=[field('F"ront', 0), field("x:y{z}", 1)],
        tmpls=[template('C"1', 0)]),
    "names that clean up alike": notetype(77, "n", flds=[field("F", 0), field("F:", 1), field(" F", 2)]),
    "decomposed names": notetype(77, "e\u0301", flds=[field("e\u0301", 0)],
        tmpls=[template("e\u0301", 0)]),
    "empty names": notetype(77, "", flds=[field("", 0)], tmpls=[template("", 0)]),
    "orders that jump": notetype(77, "n", sortf=1, flds=[field("B", 1), field("A", 0), field("C", None)]),
    "sort field out of range": notetype(77, "n", sortf=9),
    "cloze": notetype(77, "c", type=1, tmpls=[template("Cloze", 0, qfmt="{{cloze:Front}}")]),
    "broken template": notetype(77, "b", tmpls=[template("x", 0, qfmt="{{#Front}}", afmt="{{")]),
    "requirements": notetype(77, "r", req=[[0, "all", [0, 1]], [1, "none", []], [2, "any", [65535]]]),
    "odd requirements": notetype(77, "r", req=[[0, "some", [0]]]),
    "negative requirement": notetype(77, "r", req=[[-1, "any", [0]]]),
    "no requirements": {key: value for key, value in notetype(77, "n").items() if key != "req"},
    "unknown keys": notetype(77, "u", future=[1], flds=[field("F", 0, media=[], x={"y": 1})],
        tmpls=[template("T", 0, z=2.5)], vers=[], tags=["a"]),
    "newer keys": notetype(77, "k", originalStockKind=3, originalId=12345, latexsvg=True,
        flds=[field("F", 0, id=5,
        tag=2, preventDeletion=True, plainText=True, collapsed=True, excludeFromSearch=True,
        description="d")],
        tmpls=[template("T", 0, id=-7, bqfmt="{{Front}}", bafmt="x", did=5, bfont="Arial", bsize=300)]),
    "text id": notetype("77", "t"),
    "no fields": notetype(77, "n", flds=[]),
    "no templates": notetype(77, "n", tmpls=[]),
    "texts for booleans": notetype(77, "n", flds=[field("F", 0, sticky="true", rtl=1)]),
    "usn of a client": notetype(77, "c", usn=-1),
}  # fmt: skip


@pytest.mark.parametrize("sent", NOTETYPES.values(), ids=NOTETYPES.keys())
def test_notetypes_are_translated_alike(duel, base_file, session, sent):
    agree(duel, base_file, session(models=[sent]))


@pytest.mark.parametrize("mod", [999, 1000, 1001])
def test_the_newer_notetype_wins(duel, base_file, session, ids, mod):
    basic = ids("notetypes", "name = 'Basic'")[0]
    agree(
        duel,
        base_file,
        session(models=[notetype(basic, "Renamed", mod=mod, flds=[field("A", 0), field("B", 1)])]),
    )


TAGS = [
    "animal", "ANIMAL::cat", "animal::DOG::big", "new", "new::child", "NEW::child", "a b",
    "x\u3000y", "", "::",
    "a::::b", " padded ", "ctrl\x07::\x7f", "e\u0301", "é", "É::x",
]  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_is_registered_alike(duel, base_file, session, tag):
    agree(duel, base_file, session(tags=[tag]))


def test_tags_are_registered_alike_in_turn(duel, base_file, session):
    agree(duel, base_file, session(tags=TAGS))


def test_config_and_creation_are_replaced(duel, base_file, session):
    conf = {
        "schedVer": 2,
        "a": 1.0,
        "b": [1e300, -0.0, 12345678901234567890, "é\u2028\x1f", None],
        "c": {"z": 1, "a": {}},
    }
    agree(duel, base_file, session(conf=conf, crt=1_500_000_000))


@pytest.mark.parametrize("usn", [3, 7])
@pytest.mark.parametrize("mod", [999, 1000, 1001])
def test_an_unseen_card_and_note_yield_only_to_newer_ones(duel, base_file, session, ids, usn, mod):
    basic = ids("notetypes", "name = 'Basic'")[0]
    chunk = {
        "cards": [card(card_id, mod=mod, due=55) for card_id in ids("cards", f"usn = {usn}")],
        "notes": [note(note_id, basic, mod=mod) for note_id in ids("notes", f"usn = {usn}")],
    }
    agree(duel, base_file, session(chunks=[chunk]))


def test_an_object_that_comes_twice_is_compared_with_the_first_one(duel, base_file, session, ids):
    basic = ids("notetypes", "name = 'Basic'")[0]
    cards = [card(1, due=1), card(1, mod=1999, due=2), card(2, usn=3, due=1), card(2, usn=3, mod=1, due=2)]
    notes = [note(1, basic, flds="a\x1f"), note(1, basic, mod=1999, flds="b\x1f")]
    agree(
        duel, base_file, session(chunks=[{"cards": cards, "notes": notes}, {"cards": cards, "notes": notes}])
    )


def test_a_skipped_note_may_be_wrong(duel, base_file, session, ids):
    chunk = {"notes": [note(note_id, 404, mod=999) for note_id in ids("notes", "usn = 7")]}
    agree(duel, base_file, session(chunks=[chunk]))


def test_the_first_review_of_an_id_stays(duel, base_file, session):
    revlog = [[1000, 9, 10, 1, 1, 1, 1, 1, 1], [1001, 9, 10, 4, -5, 2**31 - 1, 2**32 - 1, 60000, 5]]
    agree(duel, base_file, session(chunks=[{"revlog": [*revlog, [1001, 8, 10, 1, 1, 1, 1, 1, 1]]}]))


CARD_DATA = [
    "", "{}", "x", "null", "5", '"x"', "[]", "[1]", '[1,2.5,3,0.9,0.5,1700000000,"{}"]',
    '[1,2,3,4,5,6,"a",8]',
    '{"pos":5}', '{"pos":-1}', '{"pos":4294967296}', '{"pos":1.0}', '{"pos":"5"}', '{"pos":null}',
    '{"s":1.5,"d":5}', '{"s":1.5}', '{"d":5}',
    '{"s":123.45678,"d":1.234567,"dr":0.987654,"decay":0.123456}',
    '{"s":36500.12345,"d":10,"lrt":1700000000}', '{"s":0.00001,"d":0}', '{"s":-0.00001,"d":-0.0}',
    '{"s":1e300,"d":1}', '{"s":3e38,"d":1}', '{"s":1e20,"d":1e13}', '{"s":12345678,"d":9999999.5}',
    '{"s":true,"d":1}', '{"s":1,"d":[]}', '{"dr":0.5}', '{"dr":0.005}', '{"dr":0.015}',
    '{"decay":0.1542}',
    '{"lrt":1700000000}', '{"lrt":-5}', '{"lrt":1.5}', '{"lrt":9223372036854775808}',
    '{"lrt":9223372036854775807}',
    '{"cd":"{\\"a\\":1}"}', '{"cd":"{}"}', '{"cd":""}', '{"cd":5,"pos":3}', '{"cd":null,"pos":3}',
    '{"cd":"é\\u0001\\u007f\\n\\t\\\\/\\ud83d\\ude00<"}', '{"cd":"\\ud800"}', '{"future":1,"pos":2}',
    ' {"pos" : 1 } ', '{"pos":1}x', '{"pos":1', "\ufeff{}", '{"d":5,"s":1,"pos":9}',
    '{"s":1e-7,"d":1e-3}',
    '{"s":0.99995,"d":0.9995,"dr":0.995}', '{"s":16777.217,"d":1.0005}', '{"s":2345.6789,"d":3.0015}',
]  # fmt: skip


def test_card_data_is_rewritten_alike(duel, base_file, session):
    cards = [card(number, data=data) for number, data in enumerate(CARD_DATA, 1)]
    agree(duel, base_file, session(chunks=[{"cards": cards}]))


FIELDS = [
    "plain", "<b>bold</b>", "a &amp; b", "&nbsp;x", "&bogus; &lt;", "<img src=a.jpg>",
    "<img src='b c.jpg'> x",
    '<img alt=">" src="q.jpg">', "[sound:x.mp3]", "<!-- c --> d", "<style>x</style>y",
    "<script>a</script>z", "< 5",
    "12", " 12", "12 ", "-5", "1e5", "1.50", "0x10", "9223372036854775808", "1.0", "+7", "007",
    "", "<br>12",
    "ctrl\x00\x01\x0b\x7f\x1e ok", "line\nbreak\ttab", "e\u0301", "日本語", "😀", "\u3000",
    "&#x41;&#66;", "a<",
]  # fmt: skip


def test_sort_fields_and_checksums_are_alike(duel, base_file, session):
    models = [notetype(71, "by first"), notetype(72, "by second", sortf=1), notetype(73, "beyond", sortf=5)]
    notes = [
        note(1000 * mid + at, mid, flds=f"{text}\x1f{FIELDS[-1 - at]}")
        for mid in (71, 72, 73)
        for at, text in enumerate(FIELDS)
    ]
    agree(duel, base_file, session(models=models, chunks=[{"notes": notes}]))


@pytest.mark.parametrize("tags", ["a", " a ", "b a", "a  b", "a\u3000b", "a a", "\u3000", "x::y Z", "tab\tx"])
def test_the_tags_of_notes_are_alike(duel, base_file, session, tags):
    chunk = {"notes": [note(1, 77, tags=tags)]}
    agree(duel, base_file, session(models=[notetype(77, "n")], chunks=[chunk]))


def test_a_note_of_a_notetype_without_fields_has_one(duel, base_file, session):
    chunk = {"notes": [note(1, 77, flds="one")]}
    agree(duel, base_file, session(models=[notetype(77, "n", flds=[])], chunks=[chunk]))


def test_odd_values_are_kept_alike(duel, base_file, session):
    cards = [
        card(
            1,
            usn=-1,
            did=-5,
            odid=2**62,
            due=-(2**31),
            odue=2**31 - 1,
            ord=65535,
            flags=255,
            queue=-3,
            type=3,
        )
    ]
    agree(duel, base_file, session(chunks=[{"cards": cards}]))


REFUSED = {
    "deck with id 0": {"decks": [deck(0, "x")]},
    "deck without a name": {"decks": [deck(77, None)]},
    "deck without a kind": {"decks": [{key: value for key, value in deck(77, "x").items() if key != "dyn"}]},
    "deck whose kind is a text": {"decks": [deck(77, "x", dyn="0")]},
    "deck with a fraction for an id": {"decks": [deck(77.5, "x")]},
    "deck whose usn is too large": {"decks": [deck(77, "x", usn=2**31)]},
    "deck whose usn is a text": {"decks": [deck(77, "x", usn="1")]},
    "deck options with id 0": {"configs": [options(0, "x")]},
    "deck options with a number for a name": {"configs": [options(77, 5)]},
    "deck options with null for a time": {"configs": [options(77, "x", mod=None)]},
    "notetype with id 0": {"models": [notetype(0, "x")]},
    "notetype with a number for a name": {"models": [notetype(77, 5)]},
    "notetype with a fraction for a time": {"models": [notetype(77, "x", mod=1.5)]},
    "notetype of unknown kind": {"models": [notetype(77, "x", type=7)]},
    "notetype with a negative sort field": {"models": [notetype(77, "x", sortf=-1)]},
    "field of a number": {"models": [notetype(77, "x", flds=[5])]},
    "field without a name": {"models": [notetype(77, "x", flds=[field(None, 0)])]},
    "template without a question": {"models": [notetype(77, "x", tmpls=[{"name": "t", "ord": 0}])]},
    "template with a number for an answer": {"models": [notetype(77, "x", tmpls=[template("t", 0, afmt=5)])]},
    "two fields of one name": {"models": [notetype(77, "x", flds=[field("A", 0), field("a", 1)])]},
    "two templates of one name": {"models": [notetype(77, "x", tmpls=[template("A", 0), template("a", 1)])]},
    "note of a missing notetype": {"chunks": [{"notes": [note(1, 404)]}]},
    "note with a field too many": {
        "models": [notetype(77, "x")],
        "chunks": [{"notes": [note(1, 77, flds="a\x1fb\x1fc")]}],
    },
    "note with a field too few": {
        "models": [notetype(77, "x")],
        "chunks": [{"notes": [note(1, 77, flds="a")]}],
    },
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED.keys())
def test_what_the_official_server_refuses_is_refused(duel, base_file, session, refused, sent):
    with pytest.raises(refused, match="400"):
        duel.official(base_file, session(**sent))
    with pytest.raises(InvalidChange):
        duel.ours(base_file, session(**sent))


@pytest.mark.parametrize("part", ["flds", "tmpls"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_notetype_with_another_number_of_parts_is_refused(
    duel, base_file, session, refused, ids, part, count
):
    basic = ids("notetypes", "name = 'Basic (and reversed card)'")[0]
    make = field if part == "flds" else template
    both = {"flds": [field("A", 0), field("B", 1)], "tmpls": [template("A", 0), template("B", 1)]}
    sent = notetype(basic, "x", **both | {part: [make(str(ord_), ord_) for ord_ in range(count)]})
    with pytest.raises(refused, match="400"):
        duel.official(base_file, session(models=[sent]))
    with pytest.raises(InvalidChange):
        duel.ours(base_file, session(models=[sent]))
