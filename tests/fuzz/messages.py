"""A sound message of each method, and what may stand in place of each of its parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

CARD = [1, 2, 3, 0, 1700000000, -1, 0, 0, 5, 6, 2500, 7, 8, 9, 0, 0, 0, ""]
NOTE = [1, "guid", 2, 1700000000, -1, " tag ", "a\x1fb", "", "", 0, ""]
REVLOG = [1700000000000, 1, -1, 3, 4, 5, 2500, 6000, 1]
GRAVES = {"cards": [1], "decks": [2], "notes": [3]}

MESSAGES: dict[str, Any] = {
    "hostKey": {"u": "joe", "p": "wrong"},
    "meta": {"v": 11, "cv": "x"},
    "start": {"minUsn": 0, "lnewer": False, "graves": GRAVES},
    "applyGraves": {"chunk": GRAVES},
    "applyChanges": {
        "changes": {
            "models": [{"id": 1, "name": "n", "flds": [{"name": "f", "ord": 0}]}],
            "decks": [[{"id": 1, "name": "d"}], [{"id": 1, "name": "o"}]],
            "tags": ["t"],
            "conf": {"a": 1},
            "crt": 1,
        }
    },
    "chunk": {"_pad": None},
    "applyChunk": {"chunk": {"done": True, "cards": [CARD], "notes": [NOTE], "revlog": [REVLOG]}},
    "sanityCheck2": {"client": [[1, 2, 3], 4, 5, 6, 7, 8, 9, 10]},
    "finish": {"_pad": None},
    "abort": {"_pad": None},
    "download": {"_pad": None},
    "begin": {"v": "x"},
    "mediaChanges": {"lastUsn": 0},
    "mediaSanity": {"local": 1},
    "downloadFiles": {"files": ["a"]},
}

UNREADABLE = [
    b'"\xff"',
    b'"a\xc3"',
    b'"\xed\xa0\x80"',
    b'"\xf5\x80\x80\x80"',
    b'"\xc0\xaf"',
    b'"\\ud800x',
    b'"\\x"',
    b'"\x01"',
    b'"',
    b"1e",
    b"01",
    b"-",
    b"+1",
    b"NaN",
    b"nul",
    b"[",
    b"{",
    b"]",
    b"{1:2}",
    b"[" * 2000,
    b'{"a":' * 2000,
    b"",
]
ODD = [
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\\udc00\\ud800"',
    b'""',
    b"null",
    b"true",
    b"1" + b"0" * 400,
    b"-1" + b"0" * 400,
    b"1e308",
    b"1e999",
    b"-1e999",
    b"1e-400",
    b"0." + b"1" * 400,
    b"18446744073709551616",
    b"-9223372036854775809",
    b"-0",
    b"-0.0",
    b"[" * 120 + b"]" * 120,
    b"[" * 900 + b"]" * 900,
    b"[" * 20_000 + b"]" * 20_000,
    b'{"a":' * 120 + b"1" + b"}" * 120,
    b'{"a":' * 900 + b"1" + b"}" * 900,
    b"[[],{}]",
]
_HERE = "\x00here\x00"


def with_marks(value: Any) -> Iterator[Any]:
    """The message with a mark in place of each part of it, one after the other, itself included."""
    yield _HERE
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from ({**value, key: other} for other in with_marks(inner))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from ([*value[:index], other, *value[index + 1 :]] for other in with_marks(inner))


def places(method: str) -> Iterator[tuple[bytes, bytes]]:
    """What stands before and behind each field."""
    for message in with_marks(MESSAGES[method]):
        before, _, behind = json.dumps(message).encode().partition(json.dumps(_HERE).encode())
        yield before, behind
