"""Every kind of unreadable text, number and nesting, in every field of every message, in both wrappings.

The whole server answers: a 5xx (other than 501, which `meta` may give for a version) is a bug by definition.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.messages import MESSAGES, ODD, UNREADABLE, places
from tests.support import servers
from tests.support.wire import Wire


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
