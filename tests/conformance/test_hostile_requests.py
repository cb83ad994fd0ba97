"""Requests that no client sends: a stranger's input gets a 4xx, and changes nothing."""

from __future__ import annotations

import io
import json
import random
import socket
import struct
import threading
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.differential.samples import NOTETYPE, make_collection
from tests.support.servers import Server
from tests.support.wire import Wire, dump, media_zip, sync_header

REFUSALS = {400, 403, 404, 405, 409, 413, 501}
STATEFUL = ("applyGraves", "applyChanges", "chunk", "applyChunk", "sanityCheck2", "finish")
NOTE = [5, "guid", NOTETYPE, 1_700_000_000, 0, "", "front\x1fback", "", "", 0, ""]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_collection(tmp_path_factory.mktemp("small") / "collection.anki2", 3)


@pytest.fixture
def wire(server: Server, small: bytes) -> Iterator[Wire]:
    """A user with a collection, and no sync running."""
    user = server.next_user()
    with Wire(server.port, skey="the-sync") as wire:
        wire.login(user.name, user.password)
        assert wire.upload(small).body == b"OK"
        yield wire


def begin(wire: Wire, skey: str = "the-sync") -> None:
    """Begin a sync, with a clean slate if the one before it went on: a key begins one sync only."""
    wire.call("abort", {}, skey=skey)
    assert wire.call("start", {"minUsn": 0, "lnewer": True}, skey=skey).ok


def meta(wire: Wire) -> dict[str, Any]:
    found: dict[str, Any] = wire.call("meta", {"v": 11, "cv": "x"}).json
    del found["ts"]
    return found


# names of media files

BAD_NAMES = [
    "..",
    ".",
    "",
    "a\0b",
    "\0",
    "/etc/passwd",
    "../../etc/passwd",
    "a/../b",
    "dir/file",
    unicodedata.normalize("NFD", "é.jpg"),
    "x" * 256,
    "ü" * 128,
]
ODD_NAMES = [
    "back\\slash",
    "c:\\x",
    "con",
    "nul.txt",
    "dot.",
    "space ",
    "tab\tnew\nline",
    "\x01\x7f",
    "<>|?*",
    "~",
    "-rf",
]
ODD_NAMES += [
    "\u202e\u2066x",
    "\ufeff.jpg",
    "\U0010ffff",
    "%2e%2e%2f",
    "$(id)",
    "';drop table media;--",
    "_meta",
    "0",
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_name_that_no_file_may_have_is_refused_with_all_beside_it(wire: Wire, name: str) -> None:
    answer = wire.call(
        "uploadChanges", media_zip([("before.jpg", b"x"), (name, b"bad"), ("after.jpg", b"y")])
    )
    assert answer.status == 400
    assert wire.call("mediaChanges", {"lastUsn": 0}).json["data"] == []
    assert wire.call("downloadFiles", {"files": ["before.jpg"]}).status == 409
    assert wire.call("uploadChanges", media_zip([("good.jpg", b"x")])).json["data"] == [1, 1]


@pytest.mark.parametrize("name", ODD_NAMES, ids=repr)
def test_an_odd_name_is_refused_or_kept_as_given(wire: Wire, name: str) -> None:
    answer = wire.call("uploadChanges", media_zip([(name, b"odd")]))
    assert answer.status in {200, 400}
    found = [entry[0] for entry in wire.call("mediaChanges", {"lastUsn": 0}).json["data"]]
    assert found == ([name] if answer.ok else [])
    if answer.ok:
        assert wire.call("downloadFiles", {"files": [name]}).ok
        assert wire.call("uploadChanges", media_zip([(name, None)])).json["data"] == [1, 2]


def test_names_asked_for_never_leave_the_folder(wire: Wire) -> None:
    for name in (*BAD_NAMES, *ODD_NAMES):
        assert wire.call("downloadFiles", {"files": [name]}).status in {400, 409}


# zips


def test_a_zip_bomb_is_refused(wire: Wire) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        with archive.open("0", "w", force_zip64=True) as member:
            for _ in range(110):
                member.write(bytes(1 << 20))
        archive.writestr("_meta", dump([["bomb.bin", "0"]]))
    assert len(out.getvalue()) < 1 << 20
    assert wire.call("uploadChanges", out.getvalue()).status == 400
    assert wire.call("mediaChanges", {"lastUsn": 0}).json["data"] == []


def broken_zips() -> list[bytes]:
    good = media_zip([("a.jpg", b"content" * 50), ("b.jpg", b"more")])
    end = good.rindex(b"PK\x05\x06")
    directory = good.index(b"PK\x01\x02")
    out = [b"", b"PK\x05\x06" + bytes(18), good[:-1], good[:40], good[end:], good[:end], good[:directory]]
    out.append(good.replace(b"content", b"CONTENT", 1))  # checksum
    out.append(
        good[:directory] + good[directory:].replace(struct.pack("<L", 350), struct.pack("<L", 2**32 - 2))
    )
    out.append(good[: end + 16] + struct.pack("<L", 2**32 - 2) + good[end + 20 :])  # offset of the directory
    out.append(good[: end + 8] + struct.pack("<HH", 65535, 65535) + good[end + 12 :])  # number of entries
    out.append(good[: directory + 8] + b"\x01\x00" + good[directory + 10 :])  # encrypted
    out.append(good[: directory + 10] + b"\x63\x00" + good[directory + 12 :])  # unknown compression
    out += [good * 2, good + good[directory:], b"x" * 500 + good, good + b"x" * 500]
    for meta_list in (
        None,
        5,
        "x",
        [None],
        [["a", "0", "1"]],
        [["a"]],
        {"0": "a"},
        [["a", 0]],
        [["a", "_meta"]],
    ):
        out.append(media_zip([("a.jpg", b"x")], meta=dump(meta_list)))
    out += [
        media_zip([], meta=raw)
        for raw in (b"", b"[", b"\xff", b"[" * 20_000, b" " * 60_000 + b"[]", b'["\\ud800"]')
    ]
    out.append(media_zip([(f"{i}", b"x") for i in range(26)]))
    out.append(media_zip([("a.jpg", b"")]))
    return out


@pytest.mark.parametrize("number", range(len(broken_zips())))
def test_a_broken_zip_is_refused_or_read_whole(wire: Wire, number: int) -> None:
    answer = wire.call("uploadChanges", broken_zips()[number])
    assert answer.status in {200, 400}, answer
    listed = wire.call("mediaChanges", {"lastUsn": 0}).json["data"]
    assert answer.ok or listed == []
    for name, _, _ in listed:
        assert wire.call("downloadFiles", {"files": [name]}).ok
    assert wire.call("uploadChanges", media_zip([("good.jpg", b"good")])).ok


# JSON


def awkward_values() -> list[bytes]:
    deep = 50_000
    return [
        b"[" * deep + b"]" * deep,
        b'{"a":' * deep + b"1" + b"}" * deep,
        b"1e999",
        b"-1e999",
        b"1" * 5_000,
        b"NaN",
        b"Infinity",
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\\u0000"',
        b"\xef\xbb\xbf{}",
        b"\xff",
        b'"\xed\xa0\x80"',
        b'{"\\u0000":{}}',
        b'"' + b"x" * 3_000_000 + b'"',
        b"null",
        b"true",
        b"[]",
        b"{}",
        b"[[]]",
        b"-1",
        b"1.5",
        b"9223372036854775808",
        b"-9223372036854775809",
        b'""',
    ]


def frames(value: bytes) -> list[tuple[str, bytes]]:
    """The value in every place where it could do harm."""
    return [
        ("start", b'{"minUsn":' + value + b',"lnewer":true}'),
        ("start", b'{"minUsn":0,"lnewer":' + value + b"}"),
        ("start", b'{"minUsn":0,"lnewer":true,"graves":' + value + b"}"),
        ("applyGraves", b'{"chunk":{"cards":[' + value + b'],"notes":[],"decks":[]}}'),
        ("applyChanges", b'{"changes":{"models":[' + value + b'],"decks":[[],[]],"tags":[]}}'),
        ("applyChanges", b'{"changes":{"models":[],"decks":[[' + value + b'],[]],"tags":[]}}'),
        ("applyChanges", b'{"changes":{"models":[],"decks":[[],[' + value + b']],"tags":[]}}'),
        ("applyChanges", b'{"changes":{"models":[],"decks":[[],[]],"tags":[' + value + b"]}}"),
        ("applyChanges", b'{"changes":{"models":[],"decks":[[],[]],"tags":[],"conf":{"k":' + value + b"}}}"),
        ("applyChanges", b'{"changes":{"models":[],"decks":[[],[]],"tags":[],"conf":' + value + b"}}"),
        ("applyChanges", b'{"changes":{"models":[],"decks":[[],[]],"tags":[],"crt":' + value + b"}}"),
        ("applyChunk", b'{"chunk":{"notes":[' + value + b"]}}"),
        ("applyChunk", b'{"chunk":{"cards":[' + value + b"]}}"),
        ("applyChunk", b'{"chunk":{"revlog":[' + value + b"]}}"),
        *(("applyChunk", chunk_with(value, place)) for place in range(11)),
        ("sanityCheck2", b'{"client":[[0,0,0],' + value + b",0,0,0,0,0,0]}"),
        ("meta", b'{"v":' + value + b',"cv":"x"}'),
        ("meta", b'{"v":11,"cv":' + value + b"}"),
        ("mediaChanges", b'{"lastUsn":' + value + b"}"),
        ("mediaSanity", b'{"local":' + value + b"}"),
        ("downloadFiles", b'{"files":[' + value + b"]}"),
        ("begin", b'{"v":' + value + b"}"),
        ("download", value),
        ("finish", value),
    ]


def chunk_with(value: bytes, place: int) -> bytes:
    cells = [dump(cell) for cell in NOTE]
    cells[place] = value
    return b'{"chunk":{"notes":[[' + b",".join(cells) + b"]]}}"


@pytest.mark.parametrize("value", awkward_values(), ids=lambda value: repr(value[:16]))
def test_awkward_json_is_refused_or_understood(wire: Wire, value: bytes) -> None:
    for method, payload in frames(value):
        begin(wire)
        answer = wire.call(method, payload)
        assert answer.status in REFUSALS | {200}, f"{method}: {answer}"
        wire.call("abort", {})
    begin(wire)
    assert wire.call("applyChunk", {"chunk": {"notes": [NOTE], "done": True}}).ok
    assert wire.call("finish", {}).ok
    assert wire.call("download", {}).ok


@pytest.mark.parametrize("seed", range(6))
def test_mutilated_messages_are_refused_or_understood(wire: Wire, seed: int) -> None:
    rng = random.Random(seed)
    whole = [dump({"chunk": {"notes": [NOTE], "done": True}}), *(payload for _, payload in frames(b"0"))]
    for _ in range(60):
        payload = bytearray(rng.choice(whole))
        for _ in range(rng.choice([1, 1, 2, 8])):
            place = rng.randrange(len(payload) or 1)
            payload[place : place + rng.randrange(3)] = rng.choice(
                [b"", b'"', b"{", b"]", b",", b"\\", rng.randbytes(2)]
            )
        begin(wire)
        method = rng.choice(
            ["start", "meta", "applyGraves", "applyChanges", "applyChunk", "sanityCheck2", "mediaChanges"]
        )
        answer = wire.call(method, bytes(payload))
        assert answer.status in REFUSALS | {200}, f"{method} {bytes(payload)!r}: {answer}"
    wire.call("abort", {})
    begin(wire)
    assert wire.call("finish", {}).ok


def test_numbers_at_their_limits_leave_the_account_usable(wire: Wire) -> None:
    limits = [2**31 - 1, -(2**31), 2**53, 2**63 - 1, -(2**63)]
    for limit in limits:
        begin(wire)
        for place in (0, 3, 4, 9):
            note = [*NOTE[:place], limit, *NOTE[place + 1 :]]
            assert wire.call("applyChunk", {"chunk": {"notes": [note]}}).status in REFUSALS | {200}
            begin(wire)
        for place in range(17):
            card = [6, 5, 1, 0, 1_700_000_000, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, ""]
            card[place] = limit
            assert wire.call("applyChunk", {"chunk": {"cards": [card]}}).status in REFUSALS | {200}
        wire.call("finish", {})
        assert wire.call("meta", {"v": 11, "cv": "x"}).ok
        assert wire.call("download", {}).ok
        assert wire.legacy("download", {}).ok
    begin(wire)
    assert wire.call("finish", {}).ok


# HTTP


def raw_exchange(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        out = b""
        try:
            while piece := sock.recv(1 << 16):
                out += piece
        except ConnectionResetError:
            pass
        return out


def http_oddities(header: str) -> list[bytes]:
    start = b"POST /sync/meta HTTP/1.1\r\nhost: x\r\nanki-sync: " + header.encode() + b"\r\n"
    form = b"POST /sync/meta HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data"
    packed = zstandard.compress(b'{"v":11,"cv":"x"}')
    chunked = start + b"transfer-encoding: chunked\r\n\r\n"
    return [
        start + b"content-length: -1\r\n\r\n",
        start + b"content-length: 99999999999999999999\r\n\r\n" + packed,
        start + b"content-length: 5\r\n\r\n",
        start + b"content-length: x\r\n\r\n",
        start + b"content-length: 5\r\ncontent-length: 6\r\n\r\n" + packed,
        start + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        chunked + b"zz\r\n",
        chunked + b"-5\r\n",
        chunked + b"ffffffffffffffff\r\nx",
        chunked + b"5\r\nabc",
        chunked + b"3\r\nabcd\r\n0\r\n\r\n",
        start + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        start + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed) + packed,
        start + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(packed) + packed,
        start + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
        start + b"x: y\r\n" * 2_000 + b"\r\n",
        start + b"bad header\r\n\r\n",
        start + b"x: \xff\x00\r\ncontent-length: 0\r\n\r\n",
        b"POST /sync/meta HTTP/1.1\r\nhost: x\r\nanki-sync: \xff\xfe{\r\ncontent-length: 0\r\n\r\n",
        b"POST /sync/meta HTTP/1.1\r\nhost: x\r\nanki-sync: "
        + b"[" * 30_000
        + b"\r\ncontent-length: 0\r\n\r\n",
        b"POST /sync/me%00ta HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        b"POST /sync/../../etc/passwd HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        b"POST /sync/%ff%fe HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        b"GET /sync/meta HTTP/1.1\r\nhost: x\r\n\r\n",
        b"DELETE /sync/meta HTTP/1.1\r\nhost: x\r\n\r\n",
        b"BREW /health HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /msync/begin?" + b"k=1&" * 5_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /msync/begin?k=%00%ff&v=%zz HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\n\r\n",
        form + b"\r\ncontent-length: 3\r\n\r\nabc",
        form + b"; boundary=a\r\ncontent-length: 6\r\n\r\n--a--x",
    ]


@pytest.mark.one_server  # the proxy before several reads HTTP more strictly
def test_odd_http_is_never_the_servers_fault(wire: Wire, server: Server) -> None:
    for data in http_oddities(sync_header(wire.hkey, "")):
        answer = raw_exchange(server.port, data)
        if answer:
            status = int(answer.split(None, 2)[1])
            assert status < 500 or status in {501, 505}, (data[:200], answer[:200])
        assert server.healthy()
    assert wire.call("meta", {"v": 11, "cv": "x"}).ok


def test_slow_and_silent_connections_hold_nobody_up(wire: Wire, server: Server) -> None:
    head = f"POST /sync/upload HTTP/1.1\r\nhost: x\r\nanki-sync: {sync_header(wire.hkey, '')}\r\n"
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
    try:
        for number, sock in enumerate(idle):
            if number % 2:
                sock.sendall(head.encode() + b"transfer-encoding: chunked\r\n\r\n5\r\nab")
        for _ in range(20):
            assert wire.call("meta", {"v": 11, "cv": "x"}).ok
        begin(wire)
        assert wire.call("finish", {}).ok
    finally:
        for sock in idle:
            sock.close()


# where the official server gets it wrong


def test_an_abort_with_another_key_leaves_the_sync_alone(wire: Wire) -> None:
    begin(wire)
    assert wire.call("abort", {}, skey="stranger").body == b"null"
    assert wire.call("chunk", {}).ok
    assert wire.call("finish", {}).ok


def test_a_check_by_another_device_leaves_the_sync_alone(wire: Wire) -> None:
    begin(wire)
    assert wire.call("meta", {"v": 11, "cv": "x"}, skey="another").ok
    assert wire.call("applyChunk", {"chunk": {"notes": [NOTE], "done": True}}).ok
    assert wire.call("finish", {}).ok


def test_finish_after_a_failed_sanity_check_changes_nothing(wire: Wire) -> None:
    before = meta(wire)
    begin(wire)
    assert wire.call("applyChunk", {"chunk": {"notes": [NOTE], "done": True}}).ok
    assert wire.call("sanityCheck2", {"client": [[0, 0, 0], 1, 1, 1, 1, 1, 1, 1]}).json["status"] == "bad"
    for method in ("finish", "chunk"):
        assert wire.call(method, {}).status in {400, 409}
    assert wire.call("applyChunk", {"chunk": {"notes": [NOTE]}}).status in {400, 409}
    assert meta(wire) == before


def test_a_sync_with_usn_minus_one_fails_its_sanity_check(wire: Wire) -> None:
    before = meta(wire)
    for row in ({"notes": [[*NOTE[:4], -1, *NOTE[5:]]]}, {"revlog": [[9, 9, -1, 1, 1, 1, 2500, 1, 1]]}):
        begin(wire)
        assert wire.call("applyChunk", {"chunk": row}).ok
        answer = wire.call("sanityCheck2", {"client": [[0, 0, 0], 3, 3, 3, 0, 1, 1, 1]}).json
        assert (answer["status"], answer["s"]) == ("bad", None)
    assert meta(wire) == before


def test_every_login_has_a_key_of_its_own(server: Server) -> None:
    user = server.next_user()
    with Wire(server.port) as first, Wire(server.port) as second:
        assert first.login(user.name, user.password) != second.login(user.name, user.password)
        assert first.call("meta", {"v": 11, "cv": "x"}).ok
        assert second.call("meta", {"v": 11, "cv": "x"}).ok


def test_no_password_and_no_key_is_in_the_log(server: Server, wire: Wire) -> None:
    user = server.next_user()
    wire.login(user.name, user.password)
    wire.call("hostKey", {"u": user.name, "p": "a-wrong-password"})
    wire.call("meta", {"v": 11, "cv": "x"})
    wire.legacy_begin(wire.hkey, "x")
    for secret in (user.password + '"', "a-wrong-password", wire.hkey):
        assert secret not in server.log


def test_a_stranger_learns_nothing_from_a_refusal(wire: Wire) -> None:
    answers = [wire.call("hostKey", {"u": "nobody", "p": "x"}), wire.call("applyChunk", b"{")]
    wire.hkey = "x" * 43
    answers.append(wire.call("meta", {"v": 11, "cv": "x"}))
    for answer in answers:
        assert answer.status in {400, 403}
        for word in (b"Traceback", b"File", b".py", b"sqlite", b"/"):
            assert word not in answer.body


@pytest.mark.one_server  # where the next request goes to another server, it does not meet the upload
def test_nobody_waits_for_another_users_upload(
    server: Server, wire: Wire, small: bytes, tmp_path: Path
) -> None:
    other = server.next_user()
    uploads = 24
    done = threading.Event()
    answers: list[bytes] = []

    def upload_over_and_over() -> None:
        with Wire(server.port) as busy:
            busy.login(other.name, other.password)
            answers.extend(busy.upload(small).body for _ in range(uploads))
        done.set()

    thread = threading.Thread(target=upload_over_and_over)
    thread.start()
    count = 0
    while not done.is_set() and count < 2_000:
        begin(wire)
        assert wire.call("applyChunk", {"chunk": {"notes": [NOTE], "done": True}}).ok
        assert wire.call("finish", {}).ok
        count += 1
    thread.join(60)
    # Each sync has three requests. If each of them waited for an upload, there would be 8 syncs.
    assert count >= 16
    assert answers == [b"OK"] * uploads


def test_the_answer_to_json_is_json(wire: Wire) -> None:
    answer = wire.call("meta", {"v": 11, "cv": "x"})
    assert json.loads(answer.body)["hostNum"] == 0
    assert answer.headers["anki-original-size"] == str(len(answer.body))
