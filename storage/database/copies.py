"""Working copies that all processes of a host share, so that each change is applied once per host.

Used by `storage.database.store`. A copy is a link to a base and a write-ahead log. Each process has its own
connection to it over SQLite's shared log index (-shm), so it reads what other processes commit without
opening the files again. A process holds the copy's lock while it uses it: an advisory lock on a small file
that also holds the copy's state:

    in doubt --(new copy made)--> at version v --(COMMIT begins)--> in doubt --(state written)--> at v+1

If a process dies before it has written the state, the copy stays in doubt, and the next process makes a
new one. A copy is only a cache: if its lock is busy or anything is wrong with it, a private copy is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec
import xxhash

from storage.database.assemble import Assembler, Draft, Target, can_start_from, missing
from storage.database.commit import follow_log
from storage.database.limits import Limits
from storage.database.local.cache import clear_after_reboot, locked
from storage.database.local.checkout import Checkout, Mark, local_disk, log_path, remove_copy
from storage.database.local.image import Layout, hashes_path
from storage.errors import Corrupt
from storage.types import DatabaseId, Offload

_WAIT_S = 0.1
"""How long a request waits for the lock before it makes a private copy."""
_NAP_S = 0.001
_MARKS = 16
"""Earlier versions that a state keeps."""
_INDEX_HEADER_BYTES = 136
"""Of SQLite's log index (-shm): two copies of its header, and the checkpoint information.
Source: https://www.sqlite.org/walformat.html#the_wal_index_file_format"""
_EVICT_EVERY = 64
"""New copies after which a process looks at how much disk all of them take."""


_IN_USE: set[Path] = set()
"""Folders that a store of this process uses."""


class _State(msgspec.Struct, frozen=True, array_like=True):
    """The content of the lock file of a copy that is not in doubt."""

    generation: str
    """Name of its files."""
    version: int
    checksum: int
    page_size: int
    page_count: int
    base_pages: int
    frames: int
    """Length of the log."""
    marks: tuple[Mark, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode
_DIGEST_BYTES = 8


class _Handle:
    """The copy of one database as one process sees it: lock file, connection, log index."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.turn = Lock()
        self.generation = ""
        self.checkout: Checkout | None = None
        self._index = -1
        self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def lock(self, wait_s: float) -> bool:
        """Lock the copy against other greenlets and processes; False if that takes longer than `wait_s`."""
        if not self.turn.acquire(timeout=wait_s):
            return False
        until = time.monotonic() + wait_s
        while not self._lock_file():
            if time.monotonic() >= until:
                self.turn.release()
                return False
            time.sleep(_NAP_S)
        return True

    def _lock_file(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        """Release the lock."""
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self.turn.release()

    def read_state(self) -> _State | None:
        """The state; None if it is in doubt."""
        content = os.pread(self._file, 4096, 0)
        digest, packed = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        # Empty, in doubt (zeros as digest), or partly written by a process that died.
        if not packed or xxhash.xxh3_64_digest(packed) != digest:
            return None
        try:
            return _decode(packed)
        except msgspec.MsgspecError:
            return None

    def write_state(self, state: _State) -> None:
        """Write the state. The file is truncated after it, so that nothing of a longer one stays."""
        packed = _encode(state)
        content = xxhash.xxh3_64_digest(packed) + packed
        # Not atomic, but the digest detects a partial write.
        os.pwrite(self._file, content, 0)
        os.ftruncate(self._file, len(content))

    def doubt(self) -> None:
        """Mark the copy as in doubt."""
        os.pwrite(self._file, bytes(_DIGEST_BYTES), 0)

    def path(self, generation: str) -> Path:
        """The link to the base of a generation; its other files have the same name with a suffix."""
        return self.folder / f"{generation}.db"

    def attach(self, checkout: Checkout, generation: str) -> None:
        """Keep a connection that was just opened, for later requests."""
        self.checkout, self.generation = checkout, generation
        checkout.before_commit = self.doubt

    def reset_index(self) -> None:
        """Make SQLite read the log again, in every process, as its index lacks the frames that we appended.

        Zeroing the index's header does that. The descriptor stays open as long as the connection: POSIX locks
        belong to process and file, so closing it would drop the locks that SQLite holds on the index.
        """
        if self._index < 0:
            index = self.path(self.generation).with_suffix(".db-shm")
            self._index = os.open(index, os.O_RDWR | os.O_CLOEXEC)
        os.pwrite(self._index, bytes(_INDEX_HEADER_BYTES), 0)

    def detach(self) -> None:
        """Close the connection; the files stay."""
        if self.checkout is not None:
            self.checkout.close()
        if self._index >= 0:
            os.close(self._index)
        self.checkout, self.generation, self._index = None, "", -1

    def remove_files(self) -> None:
        """Remove the files of all generations; the lock file stays."""
        for path in self.folder.glob("*.db"):
            remove_copy(path)

    def close(self) -> None:
        """Close connection and lock file."""
        self.detach()
        os.close(self._file)


class SharedCopies:
    """The shared copies of a host, as one process uses them; at most one per database."""

    def __init__(  # noqa: PLR0913 - collaborators by name
        self,
        folder: Path,
        assembler: Assembler,
        limits: Limits,
        *,
        offload: Offload[Any],
        nonce: Callable[[], str],
        count: Callable[[str], None] = lambda _event: None,
    ) -> None:
        self._count = count
        self._folder, self._assembler, self._limits = folder, assembler, limits
        self._offload, self._nonce = offload, nonce
        self._handles: OrderedDict[DatabaseId, _Handle] = OrderedDict()
        self._made = 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        clear_after_reboot(folder)
        # SQLite's locks belong to a process and an inode, so two stores of one process would drop each
        # other's. The second one gets private copies only.
        self._is_used = folder not in _IN_USE
        _IN_USE.add(folder)

    def close(self) -> None:
        """Close all connections. The copies stay for the other processes of the host."""
        if self._is_used:
            _IN_USE.discard(self._folder)
        for handle in self._handles.values():
            handle.close()
        self._handles.clear()

    def take(self, target: Target) -> Checkout | None:
        """The shared copy at the target's version, locked.

        None if another request has it, or if it is at a later version. Raises: NotFound, Corrupt,
        Unavailable.
        """
        if not self._is_used:
            return None
        handle = self._handle(target.database)
        if not handle.lock(_WAIT_S):
            return None
        try:
            state = handle.read_state()
            # A copy at a later version cannot go back: that request gets a private copy.
            if state is None or state.version <= target.version:
                return self._bring(handle, target, state)
        except BaseException:
            self._drop(handle)
            handle.unlock()
            raise
        handle.unlock()
        return None

    def _handle(self, database: DatabaseId) -> _Handle:
        handle = self._handles.get(database)
        if handle is None:
            with local_disk():
                handle = _Handle(self._folder / database.user / database.kind.value)
            self._close_oldest()
            self._handles[database] = handle
        self._handles.move_to_end(database)
        return handle

    def _close_oldest(self) -> None:
        """Close the handles used the longest ago, until one more is within the limit; those in use stay."""
        for database, handle in list(self._handles.items()):
            if len(self._handles) < self._limits.open_copies:
                return
            # A handle that is in use by a greenlet must stay open.
            if not handle.turn.locked():
                del self._handles[database]
                handle.close()

    def _bring(self, handle: _Handle, target: Target, state: _State | None) -> Checkout:
        if state is not None and can_start_from(target, state.version, state.checksum):
            with contextlib.suppress(Corrupt, FileNotFoundError):
                return self._bring_on(handle, target, state)
        return self._renew(handle, target)

    def _bring_on(self, handle: _Handle, target: Target, state: _State) -> Checkout:
        """Follow what other processes of the host have committed, and apply deltas of other hosts."""
        if handle.checkout is None or handle.generation != state.generation:
            # The first use in this process, or another process has made a new copy since the last one.
            checkout: Checkout = self._offload(lambda: self._open(handle, target.database, state))
        else:
            checkout = handle.checkout
            checkout.check_base()
            if checkout.layout.log_frames() != state.frames:
                # Another process has committed: read the headers of its frames.
                checkout.advance(state.version, _layout_of(checkout.path, checkout.layout, state))
        checkout.marks = state.marks
        entries = missing(target, state.version)
        if entries:
            handle.doubt()  # until the state is written: the log is changed now
            before = _mark_of(checkout)
            layout = self._assembler.lay(target.database, checkout.path, checkout.layout, entries)
            handle.reset_index()
            checkout.advance(target.version, layout)
            checkout.marks = (*checkout.marks, before)[-_MARKS:]
            # The first read after the reset: SQLite recovers its index from the log.
            if checkout.connection.pragma("page_count") != layout.page_count:
                raise Corrupt(checkout.path.name, layout.page_count, "another number of pages")
            handle.write_state(_state_of(checkout, handle.generation))
        self._count("from copy")
        return checkout

    def _open(self, handle: _Handle, database: DatabaseId, state: _State) -> Checkout:
        handle.detach()
        path = handle.path(state.generation)
        base = Layout(state.page_size, state.base_pages, state.checksum, state.base_pages, {}, None)
        layout = _layout_of(path, base, state)
        checkout = self._assembler.open(database, state.version, path, layout, is_shared=True)
        handle.attach(checkout, state.generation)
        return checkout

    def _renew(self, handle: _Handle, target: Target) -> Checkout:
        """Make a new copy from a base."""
        self._drop(handle)
        draft = self._assembler.draft(target)
        generation = self._nonce()
        checkout: Checkout = self._offload(lambda: self._adopt(handle, target.database, draft, generation))
        handle.write_state(_state_of(checkout, generation))
        self._made += 1
        if self._made % _EVICT_EVERY == 0:
            self._offload(self._evict)
        return checkout

    def _adopt(self, handle: _Handle, database: DatabaseId, draft: Draft, generation: str) -> Checkout:
        path = handle.path(generation)
        with local_disk():
            if draft.layout.log is not None:
                log_path(draft.path).rename(log_path(path))
            hashes_path(draft.path).rename(hashes_path(path))
            # The base comes last: without it the copy does not exist.
            draft.path.rename(path)
        # A new generation has a new name, so connections of other processes to the old files do no harm.
        checkout = self._assembler.open(database, draft.version, path, draft.layout, is_shared=True)
        handle.attach(checkout, generation)
        return checkout

    def _drop(self, handle: _Handle) -> None:
        """Mark the copy as in doubt for all processes, and remove its files."""
        handle.doubt()
        handle.detach()
        self._offload(handle.remove_files)

    def holds(self, checkout: Checkout) -> bool:
        """Whether this is a shared copy, which `release` or `discard` must give back."""
        handle = self._handles.get(checkout.database)
        return handle is not None and handle.checkout is checkout

    def advance(self, checkout: Checkout, version: int, layout: Layout) -> None:
        """Write the state after a commit to a copy that the caller holds."""
        before = _mark_of(checkout)
        checkout.advance(version, layout)
        checkout.marks = (*checkout.marks, before)[-_MARKS:]
        handle = self._handles[checkout.database]
        handle.write_state(_state_of(checkout, handle.generation))

    def release(self, checkout: Checkout) -> None:
        """Give a copy back, at the state that was last written.

        If its log is long, it is written as a new base, and the next user makes a new copy from that.
        """
        handle = self._handles[checkout.database]
        try:
            checkout.rollback()
            if self._is_long(checkout):
                self._offload(lambda: self._assembler.publish_base(checkout))
                self._drop(handle)
        except BaseException:
            self._drop(handle)
            raise
        finally:
            handle.unlock()

    def _is_long(self, checkout: Checkout) -> bool:
        base_bytes = checkout.layout.base_pages * checkout.page_size
        longest = max(self._limits.rebase_bytes, base_bytes // self._limits.rebase_share)
        return checkout.layout.log_bytes() > longest

    def discard(self, checkout: Checkout) -> None:
        """Give a copy back that has unwanted changes, and remove it; the next user makes a new one."""
        handle = self._handles[checkout.database]
        try:
            self._drop(handle)
        finally:
            handle.unlock()

    def forget(self, database: DatabaseId) -> None:
        """Wait until no request uses the copy of a database, and remove it."""
        handle = self._handle(database)
        handle.turn.acquire()
        while not handle._lock_file():  # noqa: SLF001 - a handle is part of this class
            time.sleep(_NAP_S)
        try:
            self._drop(handle)
        finally:
            handle.unlock()

    def _evict(self) -> None:
        """Remove the copies used the longest ago until all of them are within the limit of disk space."""
        with locked(self._folder / "~lock", wait=False) as held:
            if not held:
                return
            found = sorted(_sizes(self._folder))
            total = sum(size for _, size, _ in found)
            for _, size, folder in found:
                if total <= self._limits.copy_bytes:
                    return
                if _remove_unused(folder):
                    self._count("evicted copy")
                    total -= size

    def total_bytes(self) -> int:
        """The disk that all copies take. Blocks."""
        return sum(size for _, size, _ in _sizes(self._folder))


def _sizes(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """(time of the last change in ns, bytes on disk, folder) of each copy."""
    for lock in folder.glob("*/*/lock"):
        size = 0
        for path in lock.parent.glob("*.db*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                # A base that has another link is in the cache of bases, and counted there.
                size += stat.st_size if stat.st_nlink == 1 else 0
        with contextlib.suppress(FileNotFoundError):
            yield lock.stat().st_mtime_ns, size, lock.parent


def _remove_unused(folder: Path) -> bool:
    with locked(folder / "lock", wait=False) as held:
        if held:
            with (folder / "lock").open("r+b") as file:
                file.write(bytes(_DIGEST_BYTES))
            for path in folder.glob("*.db"):
                remove_copy(path)
        return held


def _layout_of(path: Path, before: Layout, state: _State) -> Layout:
    """The layout of a state, read from the log onwards from an earlier layout of the same files."""
    layout = follow_log(log_path(path), before, state.frames)
    if layout.page_count != state.page_count:
        raise Corrupt(path.name, f"{state.page_count} pages", layout.page_count)
    return msgspec.structs.replace(layout, checksum=state.checksum)


def _mark_of(checkout: Checkout) -> Mark:
    layout = checkout.layout
    return Mark(checkout.version, layout.log_frames(), layout.page_count, layout.checksum)


def _state_of(checkout: Checkout, generation: str) -> _State:
    layout = checkout.layout
    return _State(
        generation, checkout.version, layout.checksum, layout.page_size, layout.page_count,
        layout.base_pages, layout.log_frames(), checkout.marks,
    )  # fmt: skip
