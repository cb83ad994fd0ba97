"""Whole collections, up and down: what is taken, what is refused, and what a refusal leaves."""

from __future__ import annotations

import shutil

import pytest
from anki.collection import Collection as Client

from app.errors import ProtocolError
from app.sync import transfer
from tests.app.sync.scripts import NOTES, USN, body_of, dump, open_file
from tests.app.sync.workers import USER
from tests.support.faults import Faults

META = {"v": 11, "cv": "x"}


@pytest.fixture
def spooled(tmp_path):
    """A file as the HTTP side hands it over."""

    def spool(content):
        path = tmp_path / "spooled"
        path.write_bytes(content)
        return path

    return spool


def download(worker, version=11):
    """All bytes of a download; as many as were promised."""
    answer = worker.service.download(USER, version, b"{}")
    content = b"".join(answer.blocks)
    assert len(content) == answer.size_bytes
    return content


def test_an_uploaded_collection_is_what_others_download(empty_world, base, tmp_path, spooled):
    """But for USN and `mod`, which each download moves on."""
    worker, other = empty_world.worker(), empty_world.worker()
    assert worker.service.upload(USER, spooled(base.path.read_bytes())) == "OK"
    meta = other.ask("meta", META)
    assert [meta[key] for key in ("mod", "scm", "usn", "empty")] == [
        base.stamps["mod"],
        base.stamps["scm"],
        USN,
        False,
    ]
    path = tmp_path / "down.anki2"
    path.write_bytes(download(other))
    assert path.read_bytes()[18:20] == b"\x02\x02"
    theirs, ours = dump(path), dump(base.path)
    assert {table for table in ours if ours[table] != theirs[table]} == {"col"}
    after = worker.ask("meta", META)
    assert after["usn"] == USN + 1
    assert after["mod"] > meta["mod"]
    assert list(worker.scratch.iterdir()) == []


def test_a_legacy_client_gets_a_file_it_can_open(world, tmp_path):
    """Schema 11, and the stored collection stays at 18."""
    worker = world.worker()
    path = tmp_path / "down.anki2"
    path.write_bytes(download(worker, version=10))
    connection = open_file(path)
    assert connection.execute("SELECT ver FROM col").get == 11
    connection.close()
    client = Client(str(path))
    assert client.note_count() == NOTES
    client.close()
    assert world.committed()["col"][0][4] == 18
    assert list(worker.scratch.iterdir()) == []


def test_a_new_user_downloads_an_empty_collection(empty_world, tmp_path):
    """As the official server has it."""
    path = tmp_path / "down.anki2"
    path.write_bytes(download(empty_world.worker()))
    client = Client(str(path))
    assert client.note_count() == 0
    client.close()


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"not a database" * 100, b"SQLite format 3\0" + b"\0" * 4080],
    ids=["empty", "one byte", "text", "a header alone"],
)
def test_a_corrupt_upload_is_refused_and_everything_stays(world, base, spooled, content):
    """The official server replaces the collection by an empty one for some of these."""
    worker = world.worker()
    script = base.script(1)
    before = world.committed()
    assert worker.do(script[0])[0] == 200
    assert worker.service.upload(USER, spooled(content)) == transfer.CORRUPT
    assert world.committed() == before
    assert list(worker.scratch.iterdir()) == []
    for request in [*script[1:], ("finish", {})]:
        assert worker.do(request)[0] == 200


def test_an_upload_over_the_limit_is_refused(world, base, spooled):
    """With the text that clients know."""
    size = base.path.stat().st_size
    worker = world.worker(collection_bytes=size)
    assert worker.service.upload(USER, spooled(base.path.read_bytes())) == "collection exceeds size limit"
    assert world.head().version == 1


def test_an_upload_ends_a_running_sync(world, base, spooled):
    """On whichever worker it runs."""
    first, second = world.worker(), world.worker()
    script = base.script(2)
    assert first.do(script[0])[0] == 200
    assert second.service.upload(USER, spooled(base.path.read_bytes())) == "OK"
    assert first.do(script[1]) == (409, b"")
    assert first.do(script[0])[0] == 200


def test_a_download_ends_a_running_sync(world, base):
    """For it moves the USN on under the sync."""
    first, second = world.worker(), world.worker()
    script = base.script(2)
    assert first.do(script[0])[0] == 200
    download(second)
    assert first.do(script[1]) == (409, b"")


def test_a_download_goes_on_while_others_sync(world, base, tmp_path):
    """It is of the state at its beginning."""
    worker = world.worker()
    answer = worker.service.download(USER, 11, b"{}")
    before = world.committed()
    for request in [*base.script(3), ("finish", {})]:
        assert worker.do(request)[0] == 200
    path = tmp_path / "down.anki2"
    path.write_bytes(b"".join(answer.blocks))
    assert dump(path) == before


def test_a_download_that_nobody_reads_lets_its_file_go(world):
    """The client may be gone before the first block."""
    answer = world.worker().service.download(USER, 11, b"{}")
    answer.blocks.close()
    answer.blocks.close()
    assert list(answer.blocks) == []


def test_a_download_with_arguments_is_refused(world):
    """And moves nothing."""
    with pytest.raises(ProtocolError):
        world.worker().service.download(USER, 11, body_of({"x": 1}))
    assert world.head().version == 1


@pytest.mark.parametrize("transferring", ["upload", "download"])
def test_a_commit_that_comes_between_is_waited_for(world, base, spooled, transferring):
    """An upload or a download builds on whatever is there."""
    faults = Faults()
    worker, other = world.worker(faults), world.worker()
    intruders = iter([1, 2])

    def intrude(call):
        if call.method == "advance_head" and next(intruders, None):
            download(other)

    faults.watch = intrude
    if transferring == "upload":
        assert worker.service.upload(USER, spooled(base.path.read_bytes())) == "OK"
    else:
        download(worker)
    assert world.head().version == 4


def test_an_upload_whose_head_update_has_a_lost_reply_is_ok(world, base, spooled, tmp_path):
    """It is done once."""
    faults = Faults()
    worker = world.worker(faults)
    shutil.copy(base.path, tmp_path / "copy")
    faults.fail_next("advance_head", landed=True)
    assert worker.service.upload(USER, spooled(base.path.read_bytes())) == "OK"
    assert world.head().version == 2
