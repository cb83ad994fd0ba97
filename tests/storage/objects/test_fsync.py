"""Many files are synced by one call or one by one, and no failure is passed over."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os

import pytest

from storage.objects.fsync import MANY, FolderSync


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}" for number in range(MANY)]
    for path in paths:
        path.write_bytes(b"content")
    return paths


def test_few_files_are_synced_one_by_one_with_their_folder(tmp_path, files, synced):
    with contextlib.closing(FolderSync(tmp_path, lambda _: pytest.fail("not for few"))) as folder:
        folder.sync_all(files[:-1])
    assert len(synced) == MANY - 1 + 1


def test_many_files_are_synced_by_one_call_for_the_folder(tmp_path, files, synced):
    asked = []

    def syncfs(number):
        asked.append(os.path.samestat(os.fstat(number), tmp_path.stat()))
        return 0

    with contextlib.closing(FolderSync(tmp_path, syncfs)) as folder:
        folder.sync_all(files)
    assert asked == [True]
    assert synced == []


def test_the_systems_own_call_works_wherever_it_is_used(tmp_path, files):
    with contextlib.closing(FolderSync(tmp_path)) as folder:
        folder.sync_all(files)


def test_a_failed_call_is_an_error(tmp_path, files):
    def syncfs(_):
        ctypes.set_errno(errno.EIO)
        return -1

    with (
        contextlib.closing(FolderSync(tmp_path, syncfs)) as folder,
        pytest.raises(OSError, match=os.strerror(errno.EIO)),
    ):
        folder.sync_all(files)


def test_a_call_that_a_sandbox_forbids_is_done_without(tmp_path, files, synced):
    def syncfs(_):
        ctypes.set_errno(errno.ENOSYS)
        return -1

    with contextlib.closing(FolderSync(tmp_path, syncfs)) as folder:
        folder.sync_all(files)
    assert len(synced) == MANY + 1


def test_files_that_are_deleted_by_now_are_left_out(tmp_path, files, synced):
    files[0].unlink()
    with contextlib.closing(FolderSync(tmp_path)) as folder:
        folder.sync_all(files[:2])
    assert len(synced) == 2
