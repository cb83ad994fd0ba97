"""Uploads are hostile until proven otherwise: whatever a stranger sends harms nobody, himself included."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.conformance.hostile import ACCEPTED, EITHER, REFUSED, Case, cases, spoiled
from tests.differential.compare import Clock, rows
from tests.differential.samples import connect, make_collection
from tests.support import servers
from tests.support.wire import Answer, Wire, media_zip, multipart, sync_header

pytestmark = pytest.mark.one_server

CORRUPT = b"Your upload was corrupt. Please use Check Database, or restore from backup."
TOO_LARGE = b"collection exceeds size limit"
ALL = list(cases())


def often(case: Case) -> tuple[pytest.MarkDecorator, ...]:
    """Every third at every change; of one value among many of their kind, most are left to the slow run."""
    number = ALL.index(case)
    if case.fate == EITHER and number % 4:
        return (pytest.mark.slow,)
    return (pytest.mark.thorough,) if number % 3 else ()


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_collection(tmp_path_factory.mktemp("sound") / "collection.anki2", 12)


@pytest.fixture(scope="session")
def other_sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_collection(tmp_path_factory.mktemp("sound") / "collection.anki2", 5)


@pytest.fixture(scope="session")
def hostile_server(tmp_path_factory: pytest.TempPathFactory, server_kind: str) -> Iterator[servers.Server]:
    """With a limit of 1 MB, that is 3 MB unpacked, so that what is too large is not too slow."""
    users = servers.make_users(len(ALL) + 60)
    folder = tmp_path_factory.mktemp("hostile") / "data"
    extra = servers.hashed(users) | {"MAX_SYNC_PAYLOAD_MEGS": "1"}
    with servers.serving(server_kind, folder, users, extra) as server:
        yield server


class Account:
    """A user with a collection and a file, and the means to see that all is well with him."""

    def __init__(self, server: servers.Server, collection: bytes) -> None:
        self.user, self.wire = server.next_user(), Wire(server.port)
        self.wire.login(self.user.name, self.user.password)
        self.clock = Clock()
        assert self.wire.upload(collection).body == b"OK"
        assert self.wire.call("uploadChanges", media_zip([("kept.jpg", b"kept")])).ok
        self.before = self.kept()

    def kept(self) -> Any:
        collection = rows(self.wire.download(), self.clock)
        # a download counts up, and ours is the only one
        usn = collection["col"][0].pop(6)
        collection["col"][0].append(usn > 0)
        return collection, self.wire.call("mediaChanges", {"lastUsn": 0}).json["data"]

    def is_as_before(self) -> bool:
        return bool(self.kept() == self.before)

    def sync(self) -> None:
        """A whole incremental sync, which must go through."""
        usn = self.wire.call("meta", {"v": 11, "cv": "x"}).json["usn"]
        skey = "sync-after"
        steps: list[tuple[str, Any]] = [
            ("start", {"minUsn": usn, "lnewer": False}),
            ("applyChanges", {"changes": {"models": [], "decks": [[], []], "tags": ["after"]}}),
            ("chunk", {}),
            ("applyChunk", {"chunk": {"revlog": [[77, 77, usn, 1, 1, 1, 2500, 1, 1]], "done": True}}),
            ("finish", {}),
        ]
        for method, payload in steps:
            answer = self.wire.call(method, payload, skey=skey)
            assert answer.ok, f"{method}: {answer.status} {answer.body!r}"


@pytest.fixture(scope="module")
def bystander(hostile_server: servers.Server, sound: bytes) -> Iterator[Account]:
    account = Account(hostile_server, sound)
    yield account
    account.wire.connection.close()


@pytest.fixture
def account(hostile_server: servers.Server, sound: bytes) -> Iterator[Account]:
    account = Account(hostile_server, sound)
    yield account
    account.wire.connection.close()


def assert_served_clean(account: Account, tmp_path: Path) -> None:
    """What other devices get is a sound database without anything that runs by itself."""
    for answer in (account.wire.call("download", {}), account.wire.legacy("download", {})):
        assert answer.ok, answer
        path = tmp_path / "served.anki2"
        path.write_bytes(answer.body[:18] + b"\x01\x01" + answer.body[20:])
        with contextlib.closing(connect(path)) as db:
            assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
            active = "type in ('trigger', 'view') or sql like '%virtual%'"
            assert db.execute(f"select name from sqlite_master where {active}").fetchall() == []


@pytest.mark.parametrize("case", [pytest.param(c, marks=often(c), id=c.name) for c in ALL])
def test_a_hostile_upload_harms_nobody(
    case: Case, account: Account, bystander: Account, sound: bytes, other_sound: bytes, tmp_path: Path
) -> None:
    data = spoiled(sound, case, tmp_path)
    answer = account.wire.upload(data)
    taken = answer.body == b"OK"
    assert answer.status == 200, answer
    assert taken or answer.body in {CORRUPT, TOO_LARGE}, answer.body
    assert case.fate != ACCEPTED or taken
    assert case.fate != REFUSED or not taken
    assert account.wire.call("meta", {"v": 11, "cv": "x"}).ok
    if not taken:
        assert account.is_as_before()
    assert_served_clean(account, tmp_path)
    account.sync()
    assert account.wire.upload(other_sound).body == b"OK"
    account.sync()
    assert bystander.is_as_before()


def test_an_upload_without_end_is_cut_off(account: Account, bystander: Account, sound: bytes) -> None:
    bomb = zstandard.compress(sound + bytes(256 << 20), 3)
    assert len(bomb) < 1 << 20
    answer = account.wire.send("sync/upload", header(account), bomb)
    assert (answer.status, answer.body) == (200, TOO_LARGE)
    assert account.is_as_before()
    assert bystander.is_as_before()


def test_a_gzip_bomb_is_cut_off(account: Account) -> None:
    bomb = gzip.compress(bytes(256 << 20), 9)
    fields = {"c": b"1", "k": account.wire.hkey.encode(), "s": b"", "data": bomb}
    assert len(bomb) < 1 << 20
    answer = account.wire.form("upload", fields)
    assert (answer.status, answer.body) == (200, TOO_LARGE)
    assert account.wire.form("applyChunk", fields | {"s": b"x"}).status in {400, 409}
    assert account.is_as_before()


def test_a_bomb_in_place_of_json_is_refused(account: Account) -> None:
    bomb = zstandard.compress(b'{"chunk":{"notes":[' + b"[" * (64 << 20), 3)
    for method in ("applyChunk", "start", "meta", "hostKey"):
        assert account.wire.send(f"sync/{method}", header(account), bomb).status in {400, 409, 413}
    assert account.is_as_before()


def test_a_form_that_is_too_large_is_refused(account: Account) -> None:
    body = multipart({"c": b"0", "k": account.wire.hkey.encode(), "data": bytes(2 << 20)})
    kind = {"content-type": "multipart/form-data; boundary=boundary-of-the-tests"}
    with contextlib.suppress(ConnectionError):
        # the server may hang up on the rest
        assert account.wire.send("sync/upload", kind, body).status in {400, 413}
    assert account.is_as_before()


def test_files_that_are_cut_off_by_the_limit_are_refused(account: Account) -> None:
    stuffed = media_zip([(f"f{i}.bin", bytes([i]) * 400_000) for i in range(10)])
    assert account.wire.call("uploadChanges", stuffed).status == 400
    assert account.is_as_before()


def header(account: Account) -> dict[str, str]:
    return {"anki-sync": sync_header(account.wire.hkey, "x")}


def test_the_next_upload_after_each_refusal_is_taken(
    account: Account, sound: bytes, other_sound: bytes, tmp_path: Path
) -> None:
    for case in ALL[::9]:
        account.wire.upload(spoiled(sound, case, tmp_path))
        answer: Answer = account.wire.upload(other_sound)
        assert answer.body == b"OK", case.name
