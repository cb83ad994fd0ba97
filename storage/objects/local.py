"""The object store of one machine: objects are files in a folder.

`objects/` has the files by their key, `tmp/` those being written; both are on one file system. A file gets
its final name by a rename, after it was synced, so it is never visible in part. With a write-ahead log
(`storage.objects.write_ahead`) small files are synced in the log only, and at their final place later.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat as modes
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any, Final

from storage.disk import is_full
from storage.errors import NotFound, Unavailable
from storage.objects.base import ObjectStat
from storage.objects.fsync import sync_path
from storage.objects.keys import check_key, check_prefix, check_range
from storage.objects.write_ahead import LARGEST_BYTES, WriteAheadLog
from storage.types import Offload

_PIECE_BYTES: Final = 1 << 20
_LISTED_AT_ONCE: Final = 500
_WRITTEN_AT_ONCE: Final = 100
_FOLDER_RACES: Final = 10
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_TEMPORARY_S: Final = 24 * 3600
"""No write takes longer than this; an older temporary file was left by a crash."""


_Files = Sequence[tuple[str, bytes | memoryview]]
_Write = Callable[[_Files], None]
_Paths = list[Path]
_Keys = list[str]


class LocalObjectStore:
    """The object store of one machine; any number of processes may share the folder."""

    def __init__(self, root: Path, offload: Offload[Any], ahead: WriteAheadLog | None = None) -> None:
        self._offload, self._ahead = offload, ahead
        self._objects = root / "objects"
        self._temporary = root / "tmp"
        self._above = f"{self._objects}/"  # making a Path costs more than the stat of a small file
        with _mapped(str(root)):
            _make_folder(self._objects)
            _make_folder(self._temporary)
            self._clear_temporary()
            if ahead is not None:
                ahead.recover(self._put_synced)  # files that are in a log may be incomplete on the disk

    def put(self, key: str, content: bytes | memoryview) -> None:
        self.put_many([(key, content)])

    def put_many(self, items: Iterable[tuple[str, bytes | memoryview]]) -> None:
        files = list(items)
        for key, _ in files:
            check_key(key)
        self._offload(lambda: self._put_many(files))

    def put_file(self, key: str, path: Path) -> None:
        check_key(key)
        self._offload(lambda: self._put_file(key, path))

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        path = self._path(key)
        check_range(start, length)
        content: bytes = self._offload(lambda: _read(key, path, start, length))
        return content

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        files = [(key, self._path(key)) for key in keys]
        contents: list[bytes | None] = self._offload(lambda: [_read_if_there(*file) for file in files])
        return contents

    def stream(self, key: str) -> Iterator[bytes]:
        pieces = self._pieces(key, self._path(key))
        next(pieces)  # opens the file, so that its absence shows here and not at the first piece
        return pieces

    def find(self, key: str) -> ObjectStat | None:
        check_key(key)
        try:
            return _stat(key, self._above + key)
        except OSError as exc:
            raise Unavailable(f"{key}: {exc.strerror}") from exc

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        check_prefix(prefix)
        folder = prefix.rpartition("/")[0]
        return self._pages(_walk(self._objects / folder, folder and folder + "/", prefix))

    def delete(self, keys: Iterable[str]) -> None:
        paths = [self._path(key) for key in keys]
        self._offload(lambda: self._delete(paths))

    def delete_old(self, keys: Sequence[str], before_ms: int) -> Sequence[str]:
        paths = [(key, self._path(key)) for key in keys]

        def delete() -> _Keys:
            with _mapped(str(self._objects)):
                gone = [(key, path) for key, path in paths if self._take_away(key, path, before_ms)]
                self._after_deletes([path for _, path in gone])
            return [key for key, _ in gone]

        deleted: _Keys = self._offload(delete)
        return deleted

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._objects / key

    def _put_many(self, files: _Files) -> None:
        for at in range(0, len(files), _WRITTEN_AT_ONCE):
            batch = files[at : at + _WRITTEN_AT_ONCE]
            with _mapped(f"{batch[0][0]} and {len(batch) - 1} more"):
                self._put_batch(batch)

    def _put_batch(self, batch: _Files) -> None:
        """Write small files by way of the log, and large ones synced at once."""
        large = [file for file in batch if len(file[1]) > LARGEST_BYTES]
        if large:
            self._put_synced(large)
            batch = [file for file in batch if len(file[1]) <= LARGEST_BYTES]
        if batch:
            self._put_small(batch)

    def _put_small(self, batch: _Files) -> None:
        ahead = self._ahead
        # If this gives a log, the files are durable from here on.
        log = None if ahead is None else ahead.append(batch)
        if ahead is None or log is None:
            self._put_synced(batch)
            return
        try:
            self._put_named(batch, _write)
        finally:
            # Also if writing failed: the log must not wait for this caller for ever.
            ahead.mark_placed(log, [key for key, _ in batch])

    def _put_synced(self, batch: _Files) -> None:
        """Write all files, sync them, rename them, then sync each folder once."""
        self._put_named(batch, _write_synced)
        # A rename is durable only after its folder was synced; each folder once.
        for folder in dict.fromkeys(self._path(key).parent for key, _ in batch):
            _sync_folder(folder)

    def _put_named(self, batch: _Files, write: _Write) -> None:
        unique = self._new_temporary()
        temporary = [f"{unique}-{number}" for number in range(len(batch))]
        try:
            write([(path, content) for path, (_, content) in zip(temporary, batch, strict=True)])
            for path, (key, _) in zip(temporary, batch, strict=True):
                self._name(path, key)
        except BaseException:
            for path in temporary:
                Path(path).unlink(missing_ok=True)
            raise

    def _put_file(self, key: str, path: Path) -> None:
        with _mapped(key):
            # The file may be old, and the age of the object is its modification time.
            os.utime(path)
            sync_path(path)
            try:
                self._name(path, key)
            except OSError as exc:
                if isinstance(exc, FileNotFoundError) or is_full(exc):
                    raise
                # Most likely another file system, for which there are various errors. Else copying fails too.
                self._copy(path, key)
            _sync_folder(self._path(key).parent)

    def _copy(self, path: Path, key: str) -> None:
        """Store a file that is on another file system."""
        temporary = self._new_temporary()
        try:
            shutil.copyfile(path, temporary)
            sync_path(temporary)
            self._name(temporary, key)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)

    def _name(self, path: Path | str, key: str) -> None:
        """Give a file its final name; makes its folder, which a delete may remove again at the same time."""
        final = self._above + key
        for _ in range(_FOLDER_RACES):
            try:
                os.rename(path, final)  # noqa: PTH104 - see `_above`
            except FileNotFoundError:
                _make_folder(Path(final).parent)
            else:
                return
        os.rename(path, final)  # noqa: PTH104

    def _new_temporary(self) -> Path:
        return self._temporary / secrets.token_hex(12)

    def _clear_temporary(self) -> None:
        youngest = time.time() - _TEMPORARY_S
        for path in self._temporary.iterdir():
            with suppress(FileNotFoundError):
                # Younger ones may be in use by another process.
                if path.lstat().st_mtime < youngest:
                    path.unlink()

    def _pieces(self, key: str, path: Path) -> Iterator[bytes]:
        with _mapped(key):
            file, piece = self._offload(lambda: _opened(path))
            with file:
                # The first `next` only opens the file: see `stream`.
                yield b""
                while piece:
                    yield piece
                    last = len(piece) < _PIECE_BYTES
                    piece = b"" if last else self._offload(lambda: file.read(_PIECE_BYTES))

    def _pages(self, found: Iterator[ObjectStat]) -> Iterator[ObjectStat]:
        while page := self._offload(lambda: list(islice(found, _LISTED_AT_ONCE))):
            yield from page

    def _delete(self, paths: _Paths) -> None:
        """Unlink files, and folders that become empty.

        Not synced: if a power cut brings a file back, the next sweep deletes it again.
        """
        with _mapped(str(self._objects)):
            for path in paths:
                with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    path.unlink()
            self._after_deletes(paths)

    def _after_deletes(self, paths: _Paths) -> None:
        for folder in dict.fromkeys(path.parent for path in paths):
            # Removing a folder fails as long as it has files, so no check is needed.
            self._prune(folder)
        if self._ahead is not None and paths:
            self._ahead.forget([path.relative_to(self._objects).as_posix() for path in paths])

    def _take_away(self, key: str, path: Path, before_ms: int) -> bool:
        """Delete a file unless it was written at `before_ms` or later; returns whether it was deleted.

        The file is first moved to a temporary name, and its age is read again there. If another process has
        replaced it before the move, the new file is moved back; if later, the new file is not touched.
        """
        stat = _stat(key, path)
        if stat is None or stat.modified_ms >= before_ms:
            return False
        aside = self._new_temporary()
        try:
            path.rename(aside)
        except FileNotFoundError:
            return False
        # The check that counts: from here on no other process can replace this file.
        stat = _stat(key, aside)
        if stat is not None and stat.modified_ms >= before_ms:
            self._name(aside, key)
            return False
        aside.unlink()
        return True

    def _prune(self, folder: Path) -> None:
        with suppress(OSError):
            while folder != self._objects:
                folder.rmdir()
                folder = folder.parent


def _read(key: str, path: Path, start: int, length: int | None) -> bytes:
    with _mapped(key), path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        # A range beyond the end gives what there is.
        wanted = max(0, size - start) if length is None else min(length, max(0, size - start))
        file.seek(start)
        pieces = []
        while wanted and (piece := file.read(wanted)):
            pieces.append(piece)
            wanted -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _read_if_there(key: str, path: Path) -> bytes | None:
    with suppress(NotFound):
        return _read(key, path, 0, None)
    return None


def _opened(path: Path) -> tuple[FileIO, bytes]:
    file = FileIO(path)
    return file, file.read(_PIECE_BYTES)


def _write(files: _Files) -> None:
    for path, content in files:
        number = os.open(path, _NEW_FILE, 0o666)
        try:
            _write_all(number, content)
        finally:
            os.close(number)


def _write_all(number: int, content: bytes | memoryview) -> None:
    written = os.write(number, content)
    while written < len(content):
        written += os.write(number, memoryview(content)[written:])


def _write_synced(files: _Files) -> None:
    """Write new files and sync them; the disk is given all of them before the first is waited for."""
    with ExitStack() as opened:
        written = []
        for path, content in files:
            number = os.open(path, _NEW_FILE, 0o666)
            opened.callback(os.close, number)
            written.append(number)
            _write_all(number, content)
        if len(written) > 1 and hasattr(os, "posix_fadvise"):
            for number in written:
                # Makes Linux start writing the file's dirty pages: half the time of the syncs alone.
                os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        for number in written:
            os.fsync(number)


def _sync_folder(folder: Path) -> None:
    with suppress(FileNotFoundError):  # removed meanwhile, as all files in it were deleted
        sync_path(folder)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each synced into the one above."""
    if folder.is_dir():
        return
    # From the top down, each one synced into its parent.
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    _sync_folder(folder.parent)


def _stat(key: str, path: Path | str) -> ObjectStat | None:
    try:
        stat = os.stat(path)  # noqa: PTH116 - see `find`
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not modes.S_ISREG(stat.st_mode):
        return None
    return ObjectStat(key, stat.st_size, stat.st_mtime_ns // 1_000_000, time.time_ns() // 1_000_000)


def _walk(folder: Path, above: str, prefix: str) -> Iterator[ObjectStat]:
    """Files below `folder` whose key begins with `prefix`, by key; `above` is the folder's key."""
    try:
        with os.scandir(folder) as entries:
            # With the `/` a folder sorts as its keys do in a store without folders: "a-1" before "a/1".
            names = sorted(entry.name + "/" * entry.is_dir() for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        key = above + name
        if not key.startswith(prefix):
            continue
        if name.endswith("/"):
            yield from _walk(folder / name, key, prefix)
        elif (stat := _stat(key, folder / name)) is not None:
            yield stat


@contextmanager
def _mapped(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise NotFound(what) from exc
    except OSError as exc:
        raise Unavailable(f"{what}: {exc.strerror}") from exc
