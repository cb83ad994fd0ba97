"""Local files of a host: immutable bases shared by its processes, and the private folder of each.

A base that was touched since it was made, or is not of its name, is dropped and fetched again.
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

from storage.database.image import Image, Layout, hashes_path, whole_blocks
from storage.database.pages import lock_page, page_hashes
from storage.disk import is_full
from storage.errors import Corrupt
from storage.lazy import LazyModule
from storage.types import DatabaseId

if TYPE_CHECKING:
    import numpy as np
else:
    np = LazyModule("numpy")

_LOCK, _BOOT = "~lock", "~boot"
"""Beside the users' folders: no user id has a `~`."""

_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.db")


class Base(msgspec.Struct, frozen=True):
    """One base file, as its name tells."""

    version: int
    checksum: int
    path: Path


def _mark_ns(checksum: int) -> int:
    # A base's modification time is a mark made of its checksum: whoever writes to it through any
    # link moves the time, and a file put under another's name carries the wrong mark.
    return (1_000_000_000 + checksum % 1_000_000_000) * 1_000_000_000


def read_boot_id() -> str:
    """Names this run of the host's kernel; empty where it cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def clear_after_reboot(folder: Path) -> None:
    """Empty a folder of local files if the host was started again since they were written.

    They are not synced to the disk: what a crash of the host left of them may be anything.
    """
    boot, mark = read_boot_id(), folder / _BOOT
    with locked(folder / _LOCK):
        if boot and mark.exists() and mark.read_text() == boot:
            return
        for found in folder.iterdir():
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
        mark.write_text(boot)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an advisory lock on a file within the block; False if it is taken and `wait` is not set."""
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
        """Take a finished file over as a base; it moves. Evicts others when the room is used up.

        `into` is a name that a checkout has for the file from the start, so that eviction by another process
        cannot come between publishing and linking.
        """
        home = self._home(database)
        home.mkdir(parents=True, exist_ok=True)
        path = home / f"{version:016x}-{checksum:016x}.db"
        made.chmod(0o600)
        os.utime(made, ns=(_mark_ns(checksum), _mark_ns(checksum)))
        size = made.stat().st_size
        if into is not None:
            _link_or_copy(made, into)
        made.replace(path)
        self._added_bytes += size
        if self._added_bytes * 16 > self._max_bytes:
            self._evict(path)
        return Base(version, checksum, path)

    def adopt(self, database: DatabaseId, version: int, checksum: int, path: Path) -> None:
        """Take a file from anywhere over as a base; it is copied only from another disk, and then kept."""
        try:
            self.publish(database, version, checksum, path)
        except OSError as exc:
            if isinstance(exc, FileNotFoundError) or is_full(exc):
                raise
            # From another disk, however the file system says so. If it is something else, copying fails, too.
            near = self._folder / f"{path.name}.{os.getpid()}.tmp"
            shutil.copyfile(path, near)
            self.publish(database, version, checksum, near)

    def link(self, base: Base, into: Path) -> Layout:
        """Give a checkout its own name for a base. Raises FileNotFoundError, Corrupt (and drops it)."""
        _link_or_copy(base.path, into)
        return self.open_linked(base, into)

    def open_linked(self, base: Base, into: Path) -> Layout:
        """The layout of a base under the name that a checkout has for it. Raises as `link` does."""
        try:
            layout = _read_layout(base, into)
            self._link_hashes(base, into, layout)
        except (Corrupt, OSError):
            _unlink(into)
            self.drop(base)
            raise
        return layout

    def _link_hashes(self, base: Base, into: Path, layout: Layout) -> None:
        """Put the file of page hashes beside a copy; all of the base is read where there is none yet."""
        is_due = next(self._links) % self._verify_every == 0
        if not is_due:
            with contextlib.suppress(FileNotFoundError):
                _link_or_copy(hashes_path(base.path), hashes_path(into))
                return
        hashes = _hash_pages(into, layout)
        hashes_path(into).write_bytes(hashes)
        near = hashes_path(into).with_suffix(".new-sums")
        near.write_bytes(hashes)
        near.replace(hashes_path(base.path))

    def drop(self, base: Base) -> None:
        """Forget one base; checkouts that link it go on."""
        _unlink(base.path)

    def _evict(self, spare: Path) -> None:
        with locked(self._folder / _LOCK, wait=False) as held:
            if not held:
                return
            self._added_bytes = 0
            found = sorted(self._list_all())
            total = sum(size for _, size, _ in found)
            for _, size, path in found:
                if total <= self._max_bytes:
                    break
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
    """Link, or copy where the file system has no hard links; how it says so differs too much to tell."""
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
    """The page size that a file's first 100 bytes tell; 0 where they are no SQLite header in WAL mode."""
    if len(head) < 100 or head[:16] != b"SQLite format 3\0" or head[18:20] != b"\2\2":
        return 0
    size: int = struct.unpack_from(">H", head, 16)[0]
    size = 65536 if size == 1 else size
    return size if size >= 512 and size & (size - 1) == 0 else 0


def _hash_pages(path: Path, layout: Layout) -> bytes:
    """The hashes of all pages, in their order. Raises Corrupt unless they make up the checksum."""
    hashes, total = np.zeros(layout.page_count, "<u8"), 0
    with Image(path, path, layout) as image:
        for numbers in whole_blocks(layout):
            found = page_hashes(numbers, image.pages(numbers), layout.page_size)
            hashes[numbers[0] - 1 : numbers[-1]] = found
            total ^= functools.reduce(operator.xor, found)
        skipped = lock_page(layout.page_size)
        if skipped <= layout.page_count:
            hashes[skipped - 1 : skipped] = page_hashes([skipped], image.page(skipped), layout.page_size)
    if total != layout.checksum:
        raise Corrupt(path.name, f"{layout.checksum:016x}", f"{total:016x}")
    return hashes.tobytes()


class WorkFolder:
    """The private folder of one process. What dead processes left is removed when it is made.

    Whether a process lives is told by a lock, and not by the age of its files: no clock counts.
    """

    def __init__(self, parent: Path, nonce: str) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        self._path = parent / f"{os.getpid()}-{nonce}"
        self._numbers = itertools.count(1)
        with locked(parent / "lock"):
            _remove_dead(parent)
            self._path.mkdir()
            alive = os.open(self._path / "alive", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(alive, fcntl.LOCK_EX)
        self._close = weakref.finalize(self, _remove_own, self._path, alive, os.getpid())

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    def new_path(self, suffix: str) -> Path:
        """A name that nobody uses yet."""
        return self._path / f"{next(self._numbers)}{suffix}"

    def close(self) -> None:
        """Remove the folder and all in it; at the latest this is done when the process ends."""
        self._close()


def _remove_own(path: Path, alive: int, owner: int) -> None:
    os.close(alive)
    if os.getpid() == owner:  # a forked child must not clear its parent's desk
        shutil.rmtree(path, ignore_errors=True)


def _remove_dead(parent: Path) -> None:
    for folder in parent.iterdir():
        if not folder.is_dir():
            if folder.name != "lock":
                folder.unlink(missing_ok=True)  # of a version that had its files here
            continue
        with contextlib.suppress(OSError), locked(folder / "alive", wait=False) as dead:
            if dead:
                shutil.rmtree(folder, ignore_errors=True)
