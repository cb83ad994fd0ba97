"""A write-ahead log of small objects: makes many files durable by one sync, and syncs the files later.

Used by the local object store. A file goes through these steps; the middle column is what survives a power
cut:

    append to the log, fdatasync  (`append`)     record in the log
    rename to its final name      (`mark_placed`)   record in the log; the file may be empty or partial
    sync the files, empty the log (`_fold`)    the file

A process has up to two logs. Each is in one of these states, all but `spare` with records in it:

                 first `append`            does not fit any more          all its users have called
                 `mark_placed`
       (none) ----------------> current ----------------------> full ------------------------------------+
                                   ^                                                                     |
                                   +------------ spare <---- files synced, log emptied  (`_fold`) -------+

While one log is full the other one is current; if both are full, or after a failed sync, `append` returns
None and the store syncs each file itself. When a process starts, it plays back the logs of processes that
have died before any file is read. `storage/README.md`, "Local objects", has the format byte by byte.
"""

from __future__ import annotations

import _queue
import fcntl
import os
import secrets
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import xxhash

from storage.objects.fsync import FolderSync, sync_path
from storage.threads import native_threads

MAGIC: Final = b"ankiahed"
LOG_BYTES: Final = 32 << 20
LARGEST_BYTES: Final = 256 << 10
"""A larger file is not logged: writing it twice costs more than syncing it."""
MOST_AT_ONCE_BYTES: Final = 4 << 20

_HEADER: Final = struct.Struct("<8sQIQ")
_SUM_BYTES: Final = 16
_AHEAD_BYTES: Final = 1 << 20
_SMALL_BYTES: Final = 128 << 10
_PATIENCE_S: Final = 30
"""How long `close` waits for a fold in progress; if it takes longer, the next start plays back the log."""

Files = Sequence[tuple[str, bytes | memoryview]]
Put = Callable[[Sequence[tuple[str, bytes]]], None]
Aside = Callable[[Callable[[], None]], None]


class Log:
    """One log file. All methods are called by `WriteAheadLog`, under its lock."""

    def __init__(self, path: Path) -> None:
        """Create the file, and lock it as long as the process lives (see `_is_owned`)."""
        self.path = path
        with _locked(path.parent / "lock"):
            self.number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self.number, fcntl.LOCK_EX)
        # Each round of a log has an epoch of its own, which all records of the round carry: so playing back
        # stops at the first record that an earlier round left behind the end.
        self.epoch = secrets.randbits(64)
        # Where the next record goes; up to where blocks are allocated; writers between `append` and
        # `mark_placed`.
        self.end = self.prepared = self.users = 0
        self.mark_placed: dict[str, None] = {}

    def write(self, files: Files, size: int) -> None:
        """Append records of `size` bytes in total. Raises: OSError."""
        # One vector of parts for `pwritev`: header, checksum and content of each record, without copying
        # contents.
        records = [part for name, content in files for part in _record(self.epoch, name.encode(), content)]
        end = self.end + size
        if end > self.prepared and size <= _SMALL_BYTES:
            # Zeros are written ahead: later appends overwrite allocated blocks, and a sync of those needs no
            # entry in the file system's journal.
            records.append(bytes(_AHEAD_BYTES))
            size += _AHEAD_BYTES
        if os.pwritev(self.number, records, self.end) != size:
            raise OSError("the log was not written whole")
        self.prepared = max(self.prepared, self.end + size)
        self.end = end

    def empty(self) -> None:
        """End the round: without the first record's magic nothing is played back. Raises: OSError."""
        os.pwrite(self.number, bytes(len(MAGIC)), 0)
        os.fdatasync(self.number)

    def begin(self) -> None:
        """Begin the next round."""
        self.mark_placed, self.end, self.epoch = {}, 0, secrets.randbits(64)

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)
        os.close(self.number)


class WriteAheadLog:
    """The logs of one process; any number of threads may use them.

    A caller that got a log from `append` renames the files to their final names, and must then call
    `mark_placed`.
    """

    def __init__(
        self, folder: Path, root: Path, *, log_bytes: int = LOG_BYTES, aside: Aside | None = None
    ) -> None:
        """The first `append` creates a log in `folder`. File names are relative to `root`, which exists then.

        `aside` runs a function in the background; by default in a native thread.
        """
        self._folder, self._root, self._log_bytes = folder, root, log_bytes
        self._aside = _in_thread if aside is None else aside
        self._sync: FolderSync | None = None
        self._current: Log | None = None
        self._full: Log | None = None
        self._spare: Log | None = None
        self._is_usable = True
        # A lock between native threads: the thread that took the item out of the queue holds it. gevent does
        # not replace `_queue.SimpleQueue` as it does `threading.Lock`.
        self._turn: _queue.SimpleQueue[None] = _queue.SimpleQueue()
        self._turn.put(None)
        self._folds: _queue.SimpleQueue[None] = _queue.SimpleQueue()

    def recover(self, put: Put) -> None:
        """Play back the logs of dead processes: `put` stores their files durably; then the logs are removed.

        Other processes that start wait meanwhile.
        """
        if not self._folder.is_dir():
            return
        with _locked(self._folder / "lock"):
            for path in sorted(self._folder.glob("*.log")):
                with path.open("rb") as log:
                    # Another running process uses it.
                    if _is_owned(log.fileno()):
                        continue
                    for files in _batches(log.fileno()):
                        put(files)
                path.unlink()

    def append(self, files: Files) -> Log | None:
        """Make files durable in a log, and return it; None if they are too large, or no log has room.

        Blocks. Files that exist already must have the same content.
        """
        size = 0
        for name, content in files:
            if len(content) > LARGEST_BYTES:
                return None
            size += _HEADER.size + len(name.encode()) + _SUM_BYTES + len(content)
        log = None if size > MOST_AT_ONCE_BYTES else self._enter(size)
        if log is None:
            return None
        try:
            with self._alone():
                log.write(files, size)
            # Outside of the lock: threads that append meanwhile are covered by their own sync, or by this
            # one.
            os.fdatasync(log.number)
        except OSError:
            # After a failed sync the content of the disk is unknown: no log is used any more, and this one
            # stays for the next start.
            self._is_usable = False
            self.mark_placed(log, [])
            return None
        return log

    def mark_placed(self, log: Log, names: Sequence[str]) -> None:
        """Report that the files have their final names, or that writing them was given up (no names)."""
        with self._alone():
            log.users -= 1
            # Names to be synced by the fold; a dict keeps each once.
            log.mark_placed.update(dict.fromkeys(names))
            is_due = log is self._full and not log.users and self._is_usable
        if is_due:
            self._aside(lambda: self._fold(log))

    def forget(self, names: Sequence[str]) -> None:
        """Report that files were deleted, so that playing back the log does not restore them.

        If the current log has any of them, it is folded at once. If that is not possible now, the files may
        come back after a power cut, and a sweep deletes them again.
        """
        with self._alone():
            log = self._current
            if log is None or log.users or self._full is not None or not self._is_usable:
                return
            if not any(name in log.mark_placed for name in names):
                return
            # Treat it as full, so that nothing is added while it is folded.
            self._full, self._current = log, self._spare
            self._spare = None
        self._fold(log)

    def close(self) -> None:
        """Sync the files in the logs, and remove the logs; without this the next start plays them back."""
        with self._alone():
            was_usable, self._is_usable = self._is_usable, False
        with suppress(_queue.Empty):
            # Wait for a fold in progress; it puts an item into the queue when it is done.
            while self._full is not None and not self._full.users:
                self._folds.get(timeout=_PATIENCE_S)
        for log in (self._current, self._spare):
            # A log that still has users, or cannot be synced, stays for the next start.
            if was_usable and log is not None and not log.users and self._settle(log):
                log.remove()
        if self._sync is not None and self._full is None:
            self._sync.close()
            self._sync = None
        self._current = self._spare = None

    def _enter(self, size: int) -> Log | None:
        """The log with room for `size` bytes, with the caller counted as a user of it; None if there is none.

        A log with users is not folded: their files may not have their names yet.
        """
        with self._alone():
            if not self._is_usable:
                return None
            full = log = self._current = self._current or self._open()
            if log.end + size > self._log_bytes:
                # The current log becomes full, the spare one current; not if the last full one is not folded.
                if self._full is not None or size > self._log_bytes:
                    return None
                log = self._spare or self._open()
                self._current, self._full, self._spare = log, full, None
            log.users += 1
            is_due = log is not full and not full.users  # else the last `mark_placed` starts the fold
        if is_due:
            self._aside(lambda: self._fold(full))
        return log

    def _open(self) -> Log:
        self._folder.mkdir(exist_ok=True)
        self._sync = self._sync or FolderSync(self._root)
        log = Log(self._folder / f"{os.getpid()}-{secrets.token_hex(8)}.log")
        sync_path(self._folder)
        # The new file must survive a power cut itself, and so must its folder.
        sync_path(self._folder.parent)
        return log

    def _fold(self, log: Log) -> None:
        """Turn a full log without users into the spare one; if that fails, no log is used any more."""
        is_settled = self._settle(log)
        with self._alone():
            self._full, self._spare = None, log
            self._is_usable = self._is_usable and is_settled
        self._folds.put(None)

    def _settle(self, log: Log) -> bool:
        """Sync all files of a log, then empty it; False if that failed, and the log must be kept."""
        try:
            if self._sync is not None:
                self._sync.sync_all([self._root / name for name in log.mark_placed])
            log.empty()
        except OSError:
            return False
        log.begin()
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._turn.get()
        try:
            yield
        finally:
            self._turn.put(None)


def _in_thread(work: Callable[[], None]) -> None:
    try:
        native_threads().start_new_thread(work, ())
    except RuntimeError:  # there are too many
        work()


def _record(epoch: int, name: bytes, content: bytes | memoryview) -> list[bytes | memoryview]:
    head = _HEADER.pack(MAGIC, epoch, len(name), len(content)) + name
    proof = xxhash.xxh3_128(head)
    proof.update(content)
    return [head, proof.digest(), content]


def _batches(log: int) -> Iterator[list[tuple[str, bytes]]]:
    """(name, content) of all records of a log, in lists of limited size."""
    batch: list[tuple[str, bytes]] = []
    size = 0
    for name, content in _records(log):
        batch.append((name, content))
        size += len(content)
        if size > MOST_AT_ONCE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _records(log: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) up to the first record that is incomplete, or that is of an earlier round."""
    # The first record's epoch is that of the round.
    first = record = _read_record(log, 0)
    while first is not None and record is not None and record[0] == first[0]:
        _, name, content, end = record
        yield name, content
        record = _read_record(log, end)


def _read_record(log: int, offset: int) -> tuple[int, str, bytes, int] | None:
    """(epoch, name, content, offset of the next record); None if there is no complete record."""
    head = os.pread(log, _HEADER.size, offset)
    if len(head) < _HEADER.size:
        return None
    magic, epoch, name_bytes, content_bytes = _HEADER.unpack(head)
    if magic != MAGIC or content_bytes > LARGEST_BYTES or name_bytes > LARGEST_BYTES:
        return None
    # Sizes are limited above, so damaged ones cannot make this read large.
    rest = os.pread(log, name_bytes + _SUM_BYTES + content_bytes, offset + len(head))
    name, proof, content = rest[:name_bytes], rest[name_bytes:][:_SUM_BYTES], rest[name_bytes + _SUM_BYTES :]
    if len(content) != content_bytes or xxhash.xxh3_128_digest(head + name + content) != proof:
        return None
    return epoch, name.decode(), content, offset + len(head) + len(rest)


def _is_owned(descriptor: int) -> bool:
    """Whether the process that created this log is alive, as it holds a lock on it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
