"""What only the object store in a folder does: whole files, syncs, temporary files, disk errors."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from storage.errors import NotFound, Unavailable
from storage.objects.local import LocalObjectStore
from storage.types import run_inline


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def objects(root):
    return LocalObjectStore(root, run_inline)


@pytest.fixture
def steps(monkeypatch, root):
    """The order of syncs and renames, by what they were done to."""
    seen = []
    real_fsync, real_rename = os.fsync, os.rename

    def name_of(number):
        path = Path(f"/proc/self/fd/{number}").readlink()
        inside = os.path.relpath(path, root)
        return "tmp/file" if inside.startswith("tmp/") else inside

    def fsync(number):
        kind = "folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file"
        seen.append(f"sync {kind} {name_of(number)}")
        real_fsync(number)

    def rename(source, target, **keywords):
        real_rename(source, target, **keywords)
        seen.append(f"name {os.path.relpath(target, root)}")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    return seen


def temporary(root):
    return list((root / "tmp").iterdir())


def test_a_file_is_synced_then_named_then_its_folder_is_synced(objects, root, steps):
    (root / "objects" / "a").mkdir()
    objects.put("a/b", b"content")
    assert steps == ["sync file tmp/file", "name objects/a/b", "sync folder objects/a"]


def test_new_folders_are_synced_into_those_above(objects, steps):
    objects.put("a/b/c", b"content")
    assert steps == [
        "sync file tmp/file",
        "sync folder objects",
        "sync folder objects/a",
        "name objects/a/b/c",
        "sync folder objects/a/b",
    ]


def test_a_batch_syncs_each_folder_once_and_names_nothing_before_all_is_synced(objects, steps):
    objects.put_many([(f"a/{number}", b"old") for number in range(2)])
    steps.clear()
    objects.put_many([(f"a/{number}", b"content") for number in range(25)])
    assert steps[:25] == ["sync file tmp/file"] * 25
    assert steps[25:50] == [f"name objects/a/{number}" for number in range(25)]
    assert steps[50:] == ["sync folder objects/a"]


def test_a_file_of_the_same_file_system_is_moved(objects, root, steps, tmp_path):
    objects.put("a/x", b"")
    steps.clear()
    source = tmp_path / "source"
    source.write_bytes(b"content")
    inode = source.stat().st_ino
    objects.put_file("a/b", source)
    assert not source.exists()
    assert (root / "objects" / "a" / "b").stat().st_ino == inode
    assert [step.split()[0] for step in steps] == ["sync", "name", "sync"]


def test_a_file_of_another_file_system_is_copied(objects, root, tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_bytes(b"content")
    real = os.rename

    def rename(path, target, **keywords):
        if os.fspath(path) == os.fspath(source):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(path, target, **keywords)

    monkeypatch.setattr(os, "rename", rename)
    objects.put_file("a/b", source)
    assert objects.read("a/b") == b"content"
    assert temporary(root) == []
    assert not source.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fails_is_unavailable_and_leaves_nothing(objects, root, monkeypatch, code):
    def fail(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    for put in (objects.put, lambda key, content: objects.put_many([(key, content), ("b", content)])):
        with pytest.raises(Unavailable, match=os.strerror(code)):
            put("a/b", b"content")
    assert temporary(root) == []
    assert list(objects.list("")) == []


def test_a_file_that_is_not_there_cannot_be_put(objects, tmp_path):
    with pytest.raises(NotFound):
        objects.put_file("a/b", tmp_path / "absent")


def test_old_temporary_files_are_cleared_at_start_and_young_ones_stay(objects, root):
    old, young = root / "tmp" / "old", root / "tmp" / "young"
    for path in (old, young):
        path.write_bytes(b"half")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    LocalObjectStore(root, run_inline)
    assert temporary(root) == [young]


def test_temporary_files_are_in_no_listing(objects, root):
    (root / "tmp" / "torn").write_bytes(b"half")
    objects.put("a/b", b"content")
    assert [found.key for found in objects.list("")] == ["a/b"]
    assert [found.key for found in objects.list("t")] == []


def test_folders_go_with_their_last_file(objects, root):
    objects.put_many([("a/b/c/1", b""), ("a/b/2", b"")])
    objects.delete(["a/b/c/1"])
    assert sorted(path.name for path in (root / "objects" / "a" / "b").iterdir()) == ["2"]
    objects.delete(["a/b/2"])
    assert list((root / "objects").iterdir()) == []


def test_all_that_touches_the_disk_goes_through_the_offload(root, tmp_path):
    hops = []

    def offload(function):
        hops.append(function)
        return function()

    objects = LocalObjectStore(root, offload)
    source = tmp_path / "source"
    source.write_bytes(b"content")
    calls = [
        lambda: objects.put("a/b", b"x"),
        lambda: objects.put_many([("a/c", b"x"), ("a/d", b"x")]),
        lambda: objects.put_file("a/e", source),
        lambda: objects.read("a/b"),
        lambda: list(objects.stream("a/b")),
        lambda: objects.delete(["a/b"]),
    ]
    for call in calls:
        before = len(hops)
        call()
        assert len(hops) == before + 1


def make_old(root, key):
    os.utime(root / "objects" / key, (time.time() - 1000,) * 2)


@pytest.mark.parametrize("moment", ["before it is moved aside", "after it is moved aside"])
def test_a_file_that_is_written_anew_while_it_is_deleted_by_age_stays(objects, root, monkeypatch, moment):
    objects.put("a/b", b"content")
    make_old(root, "a/b")
    real_rename = Path.rename

    def rename(path, target):
        if moment == "before it is moved aside":
            objects.put("a/b", b"content")
        moved = real_rename(path, target)
        if moment == "after it is moved aside":
            objects.put("a/b", b"content")
        return moved

    monkeypatch.setattr(Path, "rename", rename)
    now_ms = time.time_ns() // 1_000_000
    assert list(objects.delete_old(["a/b"], now_ms - 500_000)) in ([], ["a/b"])
    assert objects.read("a/b") == b"content"
    assert temporary(root) == []


def test_a_file_that_another_process_deletes_first_is_no_failure(objects, root, monkeypatch):
    objects.put("a/b", b"content")
    make_old(root, "a/b")
    real_rename = Path.rename

    def rename(path, target):
        path.unlink()
        return real_rename(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    assert list(objects.delete_old(["a/b"], time.time_ns() // 1_000_000)) == []
