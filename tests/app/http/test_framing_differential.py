"""The same bytes to the official server and to ours: the statuses must agree.

Our services are fakes here, so what is asked differs only in form.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator

import pytest

from tests.app.http import wire
from tests.app.http.wire import chunked, direct, form, head, header, legacy, packed, with_length
from tests.support import servers

META = {"v": 11, "cv": "anki,25.09,linux"}
USER, PASSWORD = "joe", "secret-password"
OFFICIAL_KEY = hashlib.sha1(f"{USER}:{PASSWORD}".encode()).hexdigest()

Say = Callable[[str], bytes]


def raw(body: bytes, path: str = "/sync/meta", **changes: object) -> Say:
    return lambda key: with_length(path, body, f"anki-sync: {header(**({'k': key} | changes))}")


def value(text: str) -> Say:
    return lambda key: with_length("/sync/meta", packed(META), f"anki-sync: {text.replace('KEY', key)}")


def fields(*pairs: tuple[str, bytes], path: str = "/sync/meta", ending: bytes = b"--\r\n") -> Say:
    return lambda key: legacy(
        path, form(*((n, key.encode() if v == b"KEY" else v) for n, v in pairs), ending=ending)
    )


def get(path: str, method: str = "GET") -> Say:
    return lambda key: head(path.replace("KEY", key), method=method)


MESSAGE = json.dumps(META).encode()
WHOLE = '"v":11,"k":"KEY","c":"x","s":"s"'
CASES: dict[str, Say] = {
    "plain": raw(packed(META)),
    "tiny chunks": lambda key: b"".join(chunked("/sync/meta", packed(META), 1, k=key)),
    "empty body": raw(b""),
    "not zstd": raw(MESSAGE),
    "truncated": raw(packed(META)[:-1]),
    "half": raw(packed(META)[:12]),
    "only magic": raw(b"\x28\xb5\x2f\xfd"),
    "junk after": raw(packed(META) + b"junk"),
    "second frame": raw(packed(META) + packed(b"xx")),
    "empty frame": raw(packed(b"")),
    "bad json": raw(packed(b"{")),
    "trailing text": raw(packed(MESSAGE + b"x")),
    "bad key": raw(packed(META), k="nobody"),
    "empty key": raw(packed(META), k=""),
    "bad key and bad json": raw(packed(b"{"), k="nobody"),
    "bad key and bad frame": raw(b"x", k="nobody"),
    "bad key and bad version": raw(packed(META), k="nobody", v=7),
    **{
        f"version {v}": raw(packed(META), v=v)
        for v in (-1, 0, 7, 8, 9, 10, 11, 12, 255, 256, 11.5, "11", True, None)
    },
    "header empty": value(""),
    "header text": value("x"),
    "header null": value("null"),
    "header empty object": value("{}"),
    "header without k": value('{"v":11,"c":"x","s":"s"}'),
    "header without c": value('{"v":11,"k":"KEY","s":"s"}'),
    "header without s": value('{"v":11,"k":"KEY","c":"x"}'),
    "header with more": value("{" + WHOLE + ',"x":[1]}'),
    "header spaced": value(" {" + WHOLE + "}  "),
    "header trailing": value("{" + WHOLE + "}x"),
    "header null session": value('{"v":11,"k":"KEY","c":"x","s":null}'),
    "header latin": value('{"v":11,"k":"KEY","c":"\xe9","s":"s"}'),
    "form plain": fields(("k", b"KEY"), ("data", MESSAGE)),
    "form zero": fields(("c", b"0"), ("k", b"KEY"), ("data", MESSAGE)),
    "form gzip": fields(("data", gzip.compress(MESSAGE)), ("k", b"KEY"), ("c", b"1")),
    "form gzip empty c": fields(("data", gzip.compress(MESSAGE)), ("k", b"KEY"), ("c", b"")),
    "form gzip trailing": fields(("data", gzip.compress(MESSAGE) + b"rest"), ("k", b"KEY"), ("c", b"1")),
    "form gzip truncated": fields(("data", gzip.compress(MESSAGE)[:-4]), ("k", b"KEY"), ("c", b"1")),
    "form not gzip": fields(("data", MESSAGE), ("k", b"KEY"), ("c", b"1")),
    "form gzip unmarked": fields(("data", gzip.compress(MESSAGE)), ("k", b"KEY")),
    "form sk": fields(("sk", b"KEY"), ("data", MESSAGE)),
    "form last key": fields(("k", b"bad"), ("sk", b"KEY"), ("data", MESSAGE)),
    "form last key bad": fields(("k", b"KEY"), ("sk", b"bad"), ("data", MESSAGE)),
    "form bad key bad json": fields(("k", b"bad"), ("data", b"{")),
    "form no key": fields(("data", MESSAGE)),
    "form nothing": fields(),
    "form unended": fields(("k", b"KEY"), ("data", MESSAGE), ending=b""),
    "form ended bare": fields(("k", b"KEY"), ("data", MESSAGE), ending=b"--"),
    "form latin session": fields(("k", b"KEY"), ("s", b"\xff\xfe"), ("data", MESSAGE)),
    "form begin": fields(("k", b"KEY"), ("v", b"2.1"), path="/msync/begin"),
    "form begin without version": fields(("k", b"KEY"), ("data", b"{"), path="/msync/begin"),
    "no wrapping": lambda key: with_length("/sync/meta", packed(META)),
    "json type": lambda key: with_length("/sync/meta", MESSAGE, "content-type: application/json"),
    "no boundary": lambda key: with_length("/sync/meta", form(), "content-type: multipart/form-data"),
    "login": lambda key: direct("/sync/hostKey", {"u": USER, "p": PASSWORD}, k=""),
    "login wrong": lambda key: direct("/sync/hostKey", {"u": USER, "p": "x"}, k=""),
    "login unknown": lambda key: direct("/sync/hostKey", {"u": "ann", "p": "x"}, k=""),
    "login unread": lambda key: direct("/sync/hostKey", {"u": USER}, k=""),
    "begin": get("/msync/begin?k=KEY&v=2.1"),
    "begin without v": get("/msync/begin?k=KEY"),
    "begin without k": get("/msync/begin?v=1"),
    "begin with nothing": get("/msync/begin"),
    "begin bad key": get("/msync/begin?k=bad&v=1"),
    "begin twice": get("/msync/begin?k=KEY&k=KEY&v=1"),
    "get meta": get("/sync/meta"),
    "put meta": get("/sync/meta", "PUT"),
    "get unknown method": get("/sync/nothing"),
    "post unknown method": lambda key: direct("/sync/nothing", META, k=key),
    "post unknown method without wrapping": lambda key: head("/sync/nothing", "content-length: 0"),
    "unknown path": get("/nowhere"),
    "root": get("/"),
    "sync": get("/sync/", "POST"),
    "trailing slash": get("/sync/meta/", "POST"),
    "health": get("/health"),
    "post health": get("/health", "POST"),
    "delete begin": get("/msync/begin", "DELETE"),
}


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    users = [servers.User(USER, PASSWORD)]
    started = servers.start(servers.OFFICIAL, tmp_path_factory.mktemp("official") / "data", users)
    yield started
    started.stop()


@pytest.mark.parametrize("name", CASES)
def test_both_servers_answer_with_the_same_status(
    server: servers.Server, official: servers.Server, name: str
) -> None:
    answers = []
    for port, key in ((official.port, OFFICIAL_KEY), (server.port, "key-of-joe")):
        with wire.wire(port) as client:
            answers.append(client.ask(CASES[name](key)))
    theirs, ours = answers
    assert (ours.status, sorted_allow(ours)) == (theirs.status, sorted_allow(theirs))
    assert ("anki-original-size" in ours.headers) == ("anki-original-size" in theirs.headers)


def sorted_allow(answer: wire.Answer) -> list[str]:
    return sorted(answer.headers.get("allow", "").replace(" ", "").split(","))
