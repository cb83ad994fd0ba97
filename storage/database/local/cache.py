"""Local files of a host: a cache of immutable bases shared by its processes, and a private folder of each.

Every use of a base checks size, header and modification time, and every so often the hashes of all pages; a
base that fails is deleted, and the caller fetches it again. Nothing here has to survive: all can be fetched.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import operator
import os
import re
import shutil
import struct
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from storage.database.format.pages import lock_page, page_hashes
from storage.database.local.image import Image, Layout, hashes_path, whole_blocks
from storage.disk import is_full
from storage.errors import Corrupt
from storage.lazy import LazyModule
from storage.types import DatabaseId

if TYPE_CHECKING:
    import numpy as np
else:
    np = LazyModule("numpy")

_LOCK, _BOOT = "~lock", "~boot"
"""Files in the same folder as the users' folders; a user id cannot contain `~`."""

_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.db")


class Base(msgspec.Struct, frozen=True):
    """One base file; version and checksum are in its name."""

    version: int
    checksum: int
    path: Path


def _mark_ns(checksum: int) -> int:
    # The modification time of a base is set to a value derived from its checksum. A write through any of its
    # links changes the time, and a file under another base's name has a value that does not fit.
    return (1_000_000_000 + checksum % 1_000_000_000) * 1_000_000_000


def read_boot_id() -> str:
    """The id of this boot of the host; empty if the kernel does not give one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def clear_after_reboot(folder: Path) -> None:
    """Empty a folder of local files if the host was rebooted since they were written.

    The files are never synced to the disk, so after a crash of the host their contents are undefined.
    """
    boot, mark = read_boot_id(), folder / _BOOT
    with locked(folder / _LOCK):
        # Another process has done it since the boot, or the folder was made since then.
        if boot and mark.exists() and mark.read_text() == boot:
            return
        for found in folder.iterdir():
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
        mark.write_text(boot)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an advisory lock on a file within the block.

    Gives whether it is held: False if another process has it and `wait` is not set.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


class BaseCache:
    """Base files by database, version and checksum. The least recently linked are evicted first.

    All methods block. They may be called by several threads and processes at once.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        verify_every: int,
        count: Callable[[str], None] = lambda _event: None,
    ) -> None:
        self._count = count
        self._folder, self._max_bytes, self._verify_every = folder, max_bytes, verify_every
        self._added_bytes = max_bytes
        self._links = itertools.count(1)
        folder.mkdir(parents=True, exist_ok=True)
        clear_after_reboot(folder)

    def _home(self, database: DatabaseId) -> Path:
        return self._folder / database.user / database.kind.value

    def list_bases(self, database: DatabaseId) -> list[Base]:
        """The bases of a database, newest first."""
        try:
            names = [path.name for path in self._home(database).iterdir()]
        except FileNotFoundError:
            return []
        matches = filter(None, map(_NAME.fullmatch, names))
        bases = [Base(int(m[1], 16), int(m[2], 16), self._home(database) / m[0]) for m in matches]
        return sorted(bases, key=lambda base: base.version, reverse=True)

    def publish(
        self, database: DatabaseId, version: int, checksum: int, made: Path, into: Path | None = None
    ) -> Base:
        """Move a finished file into the cache; evicts others when the cache is over its limit.

        `into` is a second name for the file, for a checkout. It is linked before the base is visible, so that
        another process cannot evict the base in between.
        """
        home = self._home(database)
        home.mkdir(parents=True, exist_ok=True)
        path = home / f"{version:016x}-{checksum:016x}.db"
        # Not read-only: SQLite would open such a file without its log.
        made.chmod(0o600)
        os.utime(made, ns=(_mark_ns(checksum), _mark_ns(checksum)))
        size = made.stat().st_size
        if into is not None:
            _link_or_copy(made, into)
        # From here on the base is visible to other processes, complete and with its final time.
        made.replace(path)
        self._added_bytes += size
        # Looking at all files is slow, so it is done only after a sixteenth of the limit was added.
        if self._added_bytes * 16 > self._max_bytes:
            self._evict(path)
        return Base(version, checksum, path)

    def adopt(self, database: DatabaseId, version: int, checksum: int, path: Path) -> None:
        """Move a file from any folder into the cache; from another file system it is copied and stays."""
        try:
            self.publish(database, version, checksum, path)
        except OSError as exc:
            if isinstance(exc, FileNotFoundError) or is_full(exc):
                raise
            # Most likely another file system, for which there are various errors. Else copying fails, too.
            near = self._folder / f"{path.name}.{os.getpid()}.tmp"
            shutil.copyfile(path, near)
            self.publish(database, version, checksum, near)

    def link(self, base: Base, into: Path) -> Layout:
        """Link a base for a checkout, and return its layout.

        Raises: FileNotFoundError if it was evicted; Corrupt, and the base is dropped.
        """
        _link_or_copy(base.path, into)
        return self.open_linked(base, into)

    def open_linked(self, base: Base, into: Path) -> Layout:
        """The layout of a base that a checkout has linked as `into`. Raises as `link` does."""
        try:
            layout = _read_layout(base, into)
            self._link_hashes(base, into, layout)
        except (Corrupt, OSError):
            _unlink(into)
            self.drop(base)
            raise
        return layout

    def _link_hashes(self, base: Base, into: Path, layout: Layout) -> None:
        """Link the file of page hashes for a checkout.

        If it does not exist yet, or every `verify_every`-th time, all of the base is read and hashed.
        """
        is_due = next(self._links) % self._verify_every == 0
        if not is_due:
            with contextlib.suppress(FileNotFoundError):
                _link_or_copy(hashes_path(base.path), hashes_path(into))
                return
        # Written to the copy's file first, then to the base's by a rename, which other processes see as a
        # whole.
        hashes = _hash_pages(into, layout)
        hashes_path(into).write_bytes(hashes)
        near = hashes_path(into).with_suffix(".new-sums")
        near.write_bytes(hashes)
        near.replace(hashes_path(base.path))

    def drop(self, base: Base) -> None:
        """Delete a base; checkouts that have linked it keep it."""
        _unlink(base.path)

    def _evict(self, spare: Path) -> None:
        # If another process evicts at the moment, it is done.
        with locked(self._folder / _LOCK, wait=False) as held:
            if not held:
                return
            self._added_bytes = 0
            found = sorted(self._list_all())
            total = sum(size for _, size, _ in found)
            for _, size, path in found:
                if total <= self._max_bytes:
                    break
                # The base that was just added must not be evicted.
                if path != spare:
                    _unlink(path)
                    self._count("evicted base")
                    total -= size

    def _list_all(self) -> Iterator[tuple[int, int, Path]]:
        """Time of the last use, bytes, and path of each base."""
        for path in self._folder.glob("*/*/*.db"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                yield stat.st_ctime_ns, stat.st_size, path  # linking and unlinking a file sets its ctime

    def total_bytes(self) -> int:
        """The disk that all bases take."""
        return sum(size for _, size, _ in self._list_all())


def _unlink(base: Path) -> None:
    for path in (base, hashes_path(base)):
        path.unlink(missing_ok=True)


def _link_or_copy(path: Path, into: Path) -> None:
    """Link a file, or copy it if linking fails: file systems without hard links raise various errors."""
    try:
        into.hardlink_to(path)
    except OSError as exc:
        if isinstance(exc, FileNotFoundError | FileExistsError) or is_full(exc):
            raise
        try:
            shutil.copy2(path, into)
        except BaseException:
            into.unlink(missing_ok=True)
            raise


def _read_layout(base: Base, path: Path) -> Layout:
    stat = path.stat()
    with path.open("rb") as file:
        head = file.read(100)
    page_size = read_page_size(head)
    if stat.st_mtime_ns != _mark_ns(base.checksum) or page_size == 0 or stat.st_size % page_size:
        raise Corrupt(base.path.name, "a base as it was made", stat)
    count = stat.st_size // page_size
    return Layout(page_size, count, base.checksum, count, {}, None)


def read_page_size(head: bytes) -> int:
    """The page size in the first 100 bytes of a file; 0 if they are no SQLite header in WAL mode."""
    if len(head) < 100 or head[:16] != b"SQLite format 3\0" or head[18:20] != b"\2\2":
        return 0
    size: int = struct.unpack_from(">H", head, 16)[0]
    size = 65536 if size == 1 else size  # 65536 does not fit into the two bytes of the field
    return size if size >= 512 and size & (size - 1) == 0 else 0


def _hash_pages(path: Path, layout: Layout) -> bytes:
    """The hashes of all pages, in order. Raises: Corrupt if their XOR is not the layout's checksum."""
    hashes, total = np.zeros(layout.page_count, "<u8"), 0
    with Image(path, path, layout) as image:
        for numbers in whole_blocks(layout):
            found = page_hashes(numbers, image.pages(numbers), layout.page_size)
            hashes[numbers[0] - 1 : numbers[-1]] = found
            total ^= functools.reduce(operator.xor, found)
        skipped = lock_page(layout.page_size)
        if skipped <= layout.page_count:
            # The lock page has a hash in the file, since readers compare whole runs, but no part in the
            # checksum.
            hashes[skipped - 1 : skipped] = page_hashes([skipped], image.page(skipped), layout.page_size)
    if total != layout.checksum:
        raise Corrupt(path.name, f"{layout.checksum:016x}", f"{total:016x}")
    return hashes.tobytes()


class WorkFolder:
    """The private folder of one process, for temporary files and private copies.

    Folders of dead processes are removed when a new one is made. A process is alive as long as it holds the
    lock on the file `alive` in its folder; the age of files does not matter.
    """

    def __init__(self, parent: Path, nonce: str) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        self._path = parent / f"{os.getpid()}-{nonce}"
        self._numbers = itertools.count(1)
        with locked(parent / "lock"):
            _remove_dead(parent)
            self._path.mkdir()
            # Held until the process ends, however it ends: the kernel releases it.
            alive = os.open(self._path / "alive", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(alive, fcntl.LOCK_EX)
        self._close = weakref.finalize(self, _remove_own, self._path, alive, os.getpid())

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    def new_path(self, suffix: str) -> Path:
        """An unused name in the folder."""
        return self._path / f"{next(self._numbers)}{suffix}"

    def close(self) -> None:
        """Remove the folder and all in it; without this it is removed when the process ends."""
        self._close()


def _remove_own(path: Path, alive: int, owner: int) -> None:
    os.close(alive)
    if os.getpid() == owner:  # not in a forked child, where the folder is the parent's
        shutil.rmtree(path, ignore_errors=True)


def _remove_dead(parent: Path) -> None:
    for folder in parent.iterdir():
        if not folder.is_dir():
            if folder.name != "lock":
                folder.unlink(missing_ok=True)  # an earlier version kept its files directly in here
            continue
        with contextlib.suppress(OSError), locked(folder / "alive", wait=False) as dead:
            if dead:
                shutil.rmtree(folder, ignore_errors=True)
