"""Every kind of unreadable text, number and nesting, in every field of every message, in both wrappings.

The whole server answers: a 5xx (other than 501, which `meta` may give for a version) is a bug by definition.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import servers
from tests.support.wire import Wire

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


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[servers.Server, Wire]]:
    """A server, and a connection whose user has a running sync."""
    folder: Path = tmp_path_factory.mktemp("undecodable") / "data"
    with servers.serving(servers.OURS, folder, 1, {"ANKISYNCD_WORKERS": "1"}) as server:
        user = server.next_user()
        with Wire(server.port, skey="the-sync") as wire:
            wire.login(user.name, user.password)
            assert wire.call("start", MESSAGES["start"]).ok
            yield server, wire


@pytest.mark.parametrize("packing", ["v11", "legacy"])
@pytest.mark.parametrize("method", MESSAGES)
def test_what_cannot_be_decoded_is_400_and_nothing_is_500(
    joined: tuple[servers.Server, Wire], method: str, packing: str
) -> None:
    server, wire = joined
    send = wire.call if packing == "v11" else wire.legacy
    for before, behind in places(method):
        for bad in UNREADABLE:
            # An empty list is a message, and so is an empty body of a form.
            if not bad and (before.endswith(b"[") or (not before and packing == "legacy")):
                continue
            answer = send(method, before + bad + behind)
            assert answer.status == 400, (before, bad, answer)
        for odd in ODD:
            answer = send(method, before + odd + behind)
            assert answer.status < 500 or answer.status == 501, (before, odd, answer)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("bad", UNREADABLE + ODD)
def test_a_sync_header_that_cannot_be_read_is_400(joined: tuple[servers.Server, Wire], bad: bytes) -> None:
    _, wire = joined
    for name in ("v", "k", "c", "s"):
        text = {"v": b"11", "k": b'"key"', "c": b'"c"', "s": b'"s"'} | {name: bad[:4000]}
        header = b"{" + b",".join(b'"%s":%s' % (key.encode(), value) for key, value in text.items()) + b"}"
        header = bytes(byte for byte in header if byte >= 32)
        answer = wire.send("sync/meta", {"anki-sync": header.decode("latin-1")}, b"")
        assert answer.status in {400, 403}, (bad, answer)


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\0", b"x" * 5000, "ä".encode()])
def test_fields_of_a_form_that_cannot_be_read_are_refused(
    joined: tuple[servers.Server, Wire], bad: bytes
) -> None:
    _, wire = joined
    good = {"k": wire.hkey.encode(), "s": b"the-sync", "c": b"0", "data": b'{"v":11,"cv":"x"}'}
    for name in ("k", "s", "c"):
        assert wire.form("meta", good | {name: bad}).status in {200, 400, 403}
