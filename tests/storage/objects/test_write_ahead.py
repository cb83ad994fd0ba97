"""The log of small files: what it keeps, when it stands aside, and what the next start makes of it."""

from __future__ import annotations

import errno
import os
import shutil
from collections import deque

import pytest

from storage.objects.local import LocalObjectStore
from storage.objects.write_ahead import LARGEST_BYTES, WriteAheadLog
from storage.types import run_inline


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def new_process(root):
    """Opens the store as another process would. A process that ends without `close` has died."""
    logs = []

    def make(**options):
        logs.append(WriteAheadLog(root / "ahead", root / "objects", **options))
        return LocalObjectStore(root, run_inline, logs[-1]), logs[-1]

    yield make
    for log in logs:
        log.close()


@pytest.fixture
def after_power_cut(root, tmp_path):
    """The folder as a disk may have it: what was only renamed and never synced is cut to nothing."""

    def cut():
        other = tmp_path / "afterwards"
        shutil.copytree(root, other)
        for path in (other / "objects").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
        return LocalObjectStore(other, run_inline, WriteAheadLog(other / "ahead", other / "objects"))

    return cut


@pytest.fixture
def aside():
    """Work that nobody waits for, to be done when a test says so."""

    class Aside(deque):
        __call__ = deque.append

        def do_all(self):
            while self:
                self.popleft()()

    return Aside()


def logs_of(root):
    return list((root / "ahead").glob("*.log"))


def test_what_was_put_is_whole_after_a_power_cut(new_process, after_power_cut):
    objects, _ = new_process()
    objects.put_many([(f"blobs/{number}", bytes([number]) * 20_000) for number in range(25)])
    objects.put("c/one", b"delta")
    objects.put("c/one", b"delta")
    restarted = after_power_cut()
    assert restarted.read("c/one") == b"delta"
    assert all(restarted.read(f"blobs/{n}") == bytes([n]) * 20_000 for n in range(25))


def test_a_batch_is_put_without_a_sync_of_each_file(new_process, synced):
    objects, _ = new_process()
    objects.put("blobs/first", b"makes the folder and the log")
    synced.clear()
    objects.put_many([(f"blobs/{number}", b"content") for number in range(25)])
    assert synced == []
    assert objects.read("blobs/24") == b"content"


def test_a_clean_stop_syncs_the_files_and_leaves_no_log(new_process, root, synced):
    objects, log = new_process()
    objects.put("blobs/a", b"content")
    synced.clear()
    log.close()
    assert len(synced) == 2
    assert logs_of(root) == []
    objects.put("blobs/b", b"put as without a log")
    assert len(synced) == 4


def test_the_log_of_a_living_process_is_left_alone(new_process, root):
    objects, _ = new_process()
    objects.put("blobs/a", b"content")
    other, _ = new_process()
    assert len(logs_of(root)) == 1
    assert other.read("blobs/a") == b"content"


def test_while_a_full_log_waits_to_be_synced_another_one_goes_on(
    new_process, after_power_cut, root, synced, aside
):
    objects, _ = new_process(log_bytes=4000, aside=aside)
    objects.put("blobs/1", b"1" * 3000)
    objects.put("blobs/2", b"2" * 3000)
    assert len(logs_of(root)) == 2
    restarted = after_power_cut()
    assert restarted.read("blobs/1") == b"1" * 3000
    assert restarted.read("blobs/2") == b"2" * 3000
    synced.clear()
    aside.do_all()
    assert len(synced) == 2
    assert objects.read("blobs/1") == b"1" * 3000


def test_when_both_logs_are_full_files_are_synced_themselves(new_process, root, synced, aside):
    objects, _ = new_process(log_bytes=4000, aside=aside)
    for number in range(2):
        objects.put(f"blobs/{number}", bytes(3000))
    synced.clear()
    objects.put("blobs/2", bytes(3000))
    assert len(synced) == 2
    aside.do_all()
    synced.clear()
    objects.put("blobs/3", bytes(3000))
    assert synced == []
    assert len(logs_of(root)) == 2


def test_a_full_log_is_synced_by_a_thread_of_its_own(new_process, root):
    objects, log = new_process(log_bytes=4000)
    for number in range(20):
        objects.put(f"blobs/{number}", bytes([number]) * 3000)
    log.close()
    assert logs_of(root) == []
    assert all(objects.read(f"blobs/{number}") == bytes([number]) * 3000 for number in range(20))


def test_many_files_of_a_full_log_are_synced_at_once_or_one_by_one(new_process, root, aside):
    objects, log = new_process(log_bytes=40_000, aside=aside)
    for first in (0, 90):
        objects.put_many([(f"blobs/{first + number}", bytes(300)) for number in range(90)])
    aside.do_all()
    log.close()
    assert logs_of(root) == []
    assert len(list(objects.list("blobs/"))) == 180


def test_records_of_an_earlier_round_are_not_played_back(new_process, after_power_cut, aside):
    objects, _ = new_process(log_bytes=10_000, aside=aside)
    for name in "abc":
        objects.put_many([(f"blobs/{name}{number}", name.encode() * 3000) for number in range(3)])
        aside.do_all()
    restarted = after_power_cut()
    assert restarted.read("blobs/c2") == b"c" * 3000
    # Synced before their rounds ended: the cuts here are made up.
    assert restarted.read("blobs/a1") == b""
    assert restarted.read("blobs/b1") == b""


def test_a_round_whose_files_cannot_be_synced_stays_for_the_next_start(
    new_process, after_power_cut, monkeypatch, root, synced, aside
):
    objects, log = new_process(log_bytes=4000, aside=aside)
    objects.put("blobs/1", b"1" * 3000)
    objects.put("blobs/2", b"2" * 3000)
    monkeypatch.setattr(os, "fsync", _fail)
    aside.do_all()
    monkeypatch.undo()
    log.close()
    assert len(logs_of(root)) == 2
    assert after_power_cut().read("blobs/1") == b"1" * 3000


def _fail(_):
    raise OSError(errno.EIO, "bad disk")


@pytest.mark.parametrize("damage", [0, 3, 20, 40, 5000])
def test_a_record_that_is_not_whole_ends_the_log(new_process, after_power_cut, root, damage):
    objects, _ = new_process()
    objects.put("blobs/a", b"a" * 1000)
    length = 28 + len("blobs/a") + 16 + 1000
    objects.put("blobs/b", b"b" * 9000)
    (log,) = logs_of(root)
    with log.open("r+b") as file:
        file.seek(length + damage)
        file.write(b"\xff\xff")
    restarted = after_power_cut()
    assert restarted.read("blobs/a") == b"a" * 1000
    assert restarted.read("blobs/b") == b""


def test_a_large_file_is_synced_itself(new_process, root, synced):
    objects, _ = new_process()
    objects.put("blobs/a", bytes(LARGEST_BYTES + 1))
    assert logs_of(root) == []
    assert len(synced) >= 2


def test_after_a_failed_sync_every_file_is_synced_itself(new_process, monkeypatch, root, synced):
    objects, log = new_process()
    objects.put("blobs/a", b"content")
    monkeypatch.setattr(os, "fdatasync", _fail)
    synced.clear()
    objects.put("blobs/b", b"content")
    monkeypatch.undo()
    assert len(synced) == 2
    log.close()
    assert len(logs_of(root)) == 1


def test_what_was_deleted_does_not_come_back(new_process, after_power_cut):
    objects, _ = new_process()
    objects.put_many([("u/a", b"content"), ("u/b", b"other")])
    objects.delete(["u/a"])
    assert [found.key for found in after_power_cut().list("")] == ["u/b"]
