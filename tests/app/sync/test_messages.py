"""What is read and what is refused, as the official server has it."""

from __future__ import annotations

import json

from app.errors import ProtocolError
from app.sync import messages

READERS = {
    "meta": messages.read_meta,
    "start": messages.read_start,
    "applyGraves": messages.read_apply_graves,
    "applyChanges": messages.read_apply_changes,
    "chunk": messages.read_empty,
    "applyChunk": messages.read_apply_chunk,
    "sanityCheck2": messages.read_sanity,
    "finish": messages.read_empty,
    "abort": messages.read_empty,
}

CARD = [1, 2, 3, 0, 1700000000, -1, 0, 0, 5, 6, 2500, 7, 8, 9, 0, 0, 0, ""]
NOTE = [1, "guid", 2, 1700000000, -1, " tag ", "a\x1fb", "", "", 0, ""]
REVLOG = [1700000000000, 1, -1, 3, 4, 5, 2500, 6000, 1]
COUNTS = [[1, 2, 3], 4, 5, 6, 7, 8, 9, 10]
START = {"minUsn": 0, "lnewer": False}
CHANGES = {"models": [], "decks": [[], []], "tags": []}
EMPTY_GRAVES = {"cards": [], "decks": [], "notes": []}


def put(row, index, value):
    """The row with another value at one place."""
    return [*row[:index], value, *row[index + 1 :]]


def chunk_of(kind, row):
    """An applyChunk body with one row."""
    return {"chunk": {kind: [row]}}


NUMBERS = [
    -1,
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**31 - 1,
    2**31,
    -(2**31),
    -(2**31) - 1,
    2**32 - 1,
    2**32,
    2**63 - 1,
    2**63,
    -(2**63),
    -(2**63) - 1,
    2**64,
    1.0,
    1.5,
    -2.5,
    1e10,
    1e300,
    "1",
    None,
    True,
    [],
    {},
]

ANYWHERE = [
    b"",
    b" ",
    b"null",
    b"0",
    b'"x"',
    b"[]",
    b"[null]",
    b"[null,null]",
    b"[0]",
    b"{}",
    b" {} \n",
    b"{}x",
    b"{}{}",
    b"{",
    b'{"a":1}',
    b'{"_pad":null}',
    b'{"_pad":1}',
    b"\xff",
    b'{"a":"\xff"}',
    b"nan",
    b"\xef\xbb\xbf{}",
    b"[" * 200,
    b"[" * 5000 + b"]" * 5000,
]

WHOLE = {
    "meta": [
        {"v": 11, "cv": "x"},
        {"v": 10, "cv": ""},
        {"v": 11},
        {"cv": "x"},
        {"v": "11", "cv": "x"},
        {"v": 11.0, "cv": "x"},
        {"v": 256, "cv": "x"},
        {"v": -1, "cv": "x"},
        {"v": None, "cv": "x"},
        {"v": True, "cv": "x"},
        {"v": 11, "cv": None},
        {"v": 11, "cv": 5},
        {"v": 11, "cv": "x", "more": [1, {"a": 2}]},
    ],
    "start": [
        START,
        START | {"graves": None},
        START | {"graves": EMPTY_GRAVES},
        START | {"more": 1},
        {"minUsn": 0},
        {"lnewer": True},
        START | {"minUsn": "0"},
        START | {"minUsn": 1.0},
        START | {"minUsn": 2**31},
        START | {"minUsn": -(2**31)},
        START | {"minUsn": None},
        START | {"lnewer": 0},
        START | {"lnewer": None},
        START | {"graves": []},
        START | {"graves": {}},
        START | {"graves": {"cards": [1], "decks": [2], "notes": [3]}},
        START | {"graves": {"cards": [1], "decks": [2]}},
        START | {"graves": {"cards": ["1"], "decks": ["-2"], "notes": ["+3"]}},
        START | {"graves": EMPTY_GRAVES | {"x": 1}},
        START | {"graves": {"cards": ["1"], "decks": [2], "notes": []}},
        START | {"graves": {"cards": ["1", 2], "decks": [], "notes": []}},
        START | {"graves": EMPTY_GRAVES | {"cards": ["x"]}},
        START | {"graves": EMPTY_GRAVES | {"cards": [""]}},
        START | {"graves": EMPTY_GRAVES | {"cards": [" 1"]}},
        START | {"graves": EMPTY_GRAVES | {"cards": ["1_0"]}},
        START | {"graves": EMPTY_GRAVES | {"cards": ["\u0661"]}},
        START | {"graves": EMPTY_GRAVES | {"cards": ["007"]}},
        START | {"graves": EMPTY_GRAVES | {"cards": [str(2**63)]}},
        START | {"graves": EMPTY_GRAVES | {"cards": [str(-(2**63))]}},
        START | {"graves": EMPTY_GRAVES | {"cards": [1.0]}},
        START | {"graves": EMPTY_GRAVES | {"cards": None}},
        START | {"graves": "x"},
        START | {"graves": False},
    ],
    "applyGraves": [
        {"chunk": EMPTY_GRAVES},
        {"chunk": EMPTY_GRAVES | {"x": 1}},
        {"chunk": {"cards": [], "notes": []}},
        {"chunk": None},
        {"chunk": []},
        {"chunk": EMPTY_GRAVES | {"cards": ["1"]}},
        {"chunk": EMPTY_GRAVES | {"cards": [2**63]}},
        {"chunk": EMPTY_GRAVES | {"cards": [1.0]}},
        {"chunk": EMPTY_GRAVES | {"cards": [1, 2, 3]}},
        {"chunk": EMPTY_GRAVES | {"cards": None}},
        {"chunk": EMPTY_GRAVES, "x": {}},
    ],
    "applyChanges": [
        {"changes": CHANGES},
        {"changes": CHANGES | {"conf": {}}},
        {"changes": CHANGES | {"conf": None}},
        {"changes": CHANGES | {"crt": 1}},
        {"changes": CHANGES | {"crt": None}},
        {"changes": CHANGES | {"crt": 1.5}},
        {"changes": CHANGES | {"crt": "1"}},
        {"changes": CHANGES | {"conf": []}},
        {"changes": CHANGES | {"conf": {"a": [1, 2.5, None, {"b": "c"}]}}},
        {"changes": CHANGES | {"x": 1}},
        {"changes": {"models": [], "decks": [[], []]}},
        {"changes": {"models": [], "tags": []}},
        {"changes": {"decks": [[], []], "tags": []}},
        {"changes": CHANGES | {"decks": []}},
        {"changes": CHANGES | {"decks": [[]]}},
        {"changes": CHANGES | {"decks": [[], [], []]}},
        {"changes": CHANGES | {"tags": ["a", "b"]}},
        {"changes": CHANGES | {"tags": [1]}},
        {"changes": CHANGES | {"tags": None}},
        {"changes": CHANGES | {"models": {}}},
        {"changes": CHANGES | {"models": [1]}},
        {"changes": None},
        {"changes": []},
        {"x": CHANGES},
    ],
    "sanityCheck2": [
        {"client": COUNTS},
        {"client": [*COUNTS, 11]},
        {"client": COUNTS[:-1]},
        {"client": None},
        {"client": []},
        {"x": 1},
        {"client": put(COUNTS, 0, [1, 2])},
        {"client": put(COUNTS, 0, [1, 2, 3, 4])},
        {"client": put(COUNTS, 0, [0, 0, 0.0])},
        {"client": put(COUNTS, 0, None)},
        {"client": COUNTS, "x": 1},
        *({"client": put(COUNTS, 1, n)} for n in NUMBERS),
        {"client": put(COUNTS, 7, -1)},
    ],
    "applyChunk": [
        {"chunk": {}},
        {"chunk": []},
        {"chunk": None},
        {},
        {"chunk": {"done": True}},
        {"chunk": {"done": 1}},
        {"chunk": {"done": None}},
        {"chunk": {"cards": None}},
        {"chunk": {"cards": {}}},
        {"chunk": {"x": 1}},
        {"chunk": {}, "x": 1},
        *(chunk_of(kind, row) for kind, row in (("cards", CARD), ("notes", NOTE), ("revlog", REVLOG))),
        *(chunk_of(kind, [*row, 0]) for kind, row in (("cards", CARD), ("notes", NOTE), ("revlog", REVLOG))),
        *(chunk_of(kind, row[:-1]) for kind, row in (("cards", CARD), ("notes", NOTE), ("revlog", REVLOG))),
        chunk_of("revlog", REVLOG[:-2]),
        chunk_of("cards", []),
        chunk_of("cards", None),
        chunk_of("cards", "x"),
        *(chunk_of("cards", put(CARD, i, n)) for i in range(18) for n in NUMBERS),
        *(chunk_of("notes", put(NOTE, i, n)) for i in range(11) for n in NUMBERS),
        *(chunk_of("revlog", put(REVLOG, i, n)) for i in range(9) for n in NUMBERS),
    ],
}

BODIES = [(method, body) for method in READERS for body in ANYWHERE] + [
    (method, json.dumps(body).encode()) for method, bodies in WHOLE.items() for body in bodies
]

BODIES += [
    ("applyChanges", json.dumps({"changes": CHANGES | {key: value}}).encode().replace(b'"deep"', nested))
    for depth in (10, 120, 121, 122, 123, 124, 125, 126, 127, 128, 129, 500, 2000)
    for nested in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth)
    for key, value in (("conf", {"a": "deep"}), ("conf", {"a": ["deep", 1], "b": []}))
]

DEPARTURES = {("applyChunk", b'{"chunk": []}')}
"""A struct as an array: no client writes it so."""


def is_refused(method, body):
    """Whether ours cannot read it."""
    try:
        READERS[method](body)
    except ProtocolError:
        return True
    return False


def test_rows_with_floats_and_wide_numbers_become_what_the_official_server_makes_of_them():
    """Towards zero; signed columns keep the low 32 bits, unsigned ones take 0 for what is below."""
    row = put(put(put(put(CARD, 4, 1.9), 8, 2**31), 9, -7.5), 14, -1.5)
    received = messages.read_apply_chunk(json.dumps(chunk_of("cards", row)).encode()).chunk.cards[0]
    assert received == tuple(put(put(put(put(CARD, 4, 1), 8, -(2**31)), 9, 0), 14, -1))


def test_a_revlog_row_without_a_sound_kind_gets_kind_zero():
    """As the official server reads it."""
    for row in (REVLOG[:-1], put(REVLOG, 8, "x"), put(REVLOG, 8, 6), put(REVLOG, 8, None)):
        body = json.dumps(chunk_of("revlog", row)).encode()
        assert messages.read_apply_chunk(body).chunk.revlog == [tuple(put(REVLOG, 8, 0))]


def test_graves_in_strings_become_numbers():
    """Old AnkiMobile versions send them so."""
    body = json.dumps(START | {"graves": {"cards": ["1", "-2"], "decks": ["+3"], "notes": []}}).encode()
    assert messages.read_start(body).graves == messages.Graves(cards=[1, -2], decks=[3], notes=[])


def test_an_answer_leaves_out_what_is_empty():
    """Clients take a missing list for an empty one."""
    assert messages.encode(messages.ChunkMessage(done=True)) == b'{"done":true}'
    changes = messages.ChangesMessage([], ([], []), [])
    assert messages.encode(changes) == b'{"models":[],"decks":[[],[]],"tags":[]}'


def test_the_same_answer_has_the_same_bytes_whatever_order_its_dicts_are_in():
    """The journal compares answers by digest."""
    assert messages.encode({"a": 1, "b": {"c": 2, "d": 3}}) == messages.encode(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )


def test_ours_reads_and_refuses_what_the_official_server_does(official):
    """Outside a sync the official server answers 400 to what it cannot read, and 409 or 200 to the rest."""
    differing = [
        (method, body)
        for method, body in BODIES
        if (method, body) not in DEPARTURES
        and (official.post(method, body, skey=method)[0] == 400) != is_refused(method, body)
    ]
    assert differing == []
