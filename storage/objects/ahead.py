"""A log that makes many small files durable by one sync; the files themselves are synced later.

Refuses large files, and all of them after a failed sync: its owner then syncs each file as usual.
The log of a process that died is played back by the next one to start, before that reads a file.
The bytes are told in `storage/README.md`, "Local objects".
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

from storage.native import native_threads
from storage.objects.syncing import FolderSync, sync_path

MAGIC: Final = b"ankiahed"
LOG_BYTES: Final = 32 << 20
LARGEST_BYTES: Final = 256 << 10
"""A larger file costs more to write twice than to sync."""
MOST_AT_ONCE_BYTES: Final = 4 << 20

_HEADER: Final = struct.Struct("<8sQIQ")
_SUM_BYTES: Final = 16
_AHEAD_BYTES: Final = 1 << 20
_SMALL_BYTES: Final = 128 << 10
_PATIENCE_S: Final = 30
"""How long a clean stop waits for a fold; the next start would make good for it."""

Files = Sequence[tuple[str, bytes | memoryview]]
Put = Callable[[Sequence[tuple[str, bytes]]], None]
Aside = Callable[[Callable[[], None]], None]


class Log:
    """One file of a `WriteAhead`, which alone changes it."""

    def __init__(self, path: Path) -> None:
        """Make it, locked for as long as the process lives."""
        self.path = path
        with _locked(path.parent / "lock"):
            self.number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self.number, fcntl.LOCK_EX)
        self.epoch = secrets.randbits(64)
        self.end = self.prepared = self.guests = 0
        self.placed: dict[str, None] = {}

    def write(self, files: Files, size: int) -> None:
        """Append the files' records, which have so many bytes. Raises: OSError."""
        records = [part for name, content in files for part in _record(self.epoch, name.encode(), content)]
        end = self.end + size
        if end > self.prepared and size <= _SMALL_BYTES:
            # Blocks that are there already are synced without the file system's journal.
            records.append(bytes(_AHEAD_BYTES))
            size += _AHEAD_BYTES
        if os.pwritev(self.number, records, self.end) != size:
            raise OSError("the log was not written whole")
        self.prepared = max(self.prepared, self.end + size)
        self.end = end

    def empty(self) -> None:
        """End the round: nothing in it is played back any more. Raises: OSError."""
        os.pwrite(self.number, bytes(len(MAGIC)), 0)
        os.fdatasync(self.number)

    def begin(self) -> None:
        """Begin the next round."""
        self.placed, self.end, self.epoch = {}, 0, secrets.randbits(64)

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)
        os.close(self.number)


class WriteAhead:
    """The logs of one process, two at most; any number of its threads may use them.

    Whoever got a log from `keep` places the files under their names, and then calls `placed`. When a
    log is full, the other one goes on, and a thread of its own syncs the files that the full one holds.
    """

    def __init__(
        self, folder: Path, root: Path, *, log_bytes: int = LOG_BYTES, aside: Aside | None = None
    ) -> None:
        """Logs are made in `folder`, by the first `keep`; names are relative to `root`, which is there then.

        `aside` does work that nobody waits for; by default in a thread.
        """
        self._folder, self._root, self._log_bytes = folder, root, log_bytes
        self._aside = _in_thread if aside is None else aside
        self._sync: FolderSync | None = None
        self._current: Log | None = None
        self._full: Log | None = None
        self._spare: Log | None = None
        self._is_usable = True
        # Locks for native threads alone, which gevent leaves as they are: whoever has the token is inside.
        self._turn: _queue.SimpleQueue[None] = _queue.SimpleQueue()
        self._turn.put(None)
        self._folds: _queue.SimpleQueue[None] = _queue.SimpleQueue()

    def recover(self, put: Put) -> None:
        """Put what the logs of dead processes hold, durably, and remove them. Others wait meanwhile."""
        if not self._folder.is_dir():
            return
        with _locked(self._folder / "lock"):
            for path in sorted(self._folder.glob("*.log")):
                with path.open("rb") as log:
                    if _is_owned(log.fileno()):
                        continue
                    for files in _batches(log.fileno()):
                        put(files)
                path.unlink()

    def keep(self, files: Files) -> Log | None:
        """Make files durable in a log; None where they are too large or there is no room just now.

        Blocks. The files must not be there yet, or be the same.
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
            os.fdatasync(log.number)
        except OSError:
            # After a failed sync nobody knows what is on the disk: the log stays, for the next start.
            self._is_usable = False
            self.placed(log, [])
            return None
        return log

    def placed(self, log: Log, names: Sequence[str]) -> None:
        """The files are under their names, or never will be."""
        with self._alone():
            log.guests -= 1
            log.placed.update(dict.fromkeys(names))
            is_due = log is self._full and not log.guests and self._is_usable
        if is_due:
            self._aside(lambda: self._fold(log))

    def forget(self, names: Sequence[str]) -> None:
        """These files were deleted: the log is not to bring them back."""
        with self._alone():
            log = self._current
            if log is None or log.guests or self._full is not None or not self._is_usable:
                return
            if not any(name in log.placed for name in names):
                return
            self._full, self._current = log, self._spare
            self._spare = None
        self._fold(log)

    def close(self) -> None:
        """Sync what was placed and remove the logs; without this the next start does it."""
        with self._alone():
            was_usable, self._is_usable = self._is_usable, False
        with suppress(_queue.Empty):
            while self._full is not None and not self._full.guests:
                self._folds.get(timeout=_PATIENCE_S)
        for log in (self._current, self._spare):
            if was_usable and log is not None and not log.guests and self._settle(log):
                log.remove()
        if self._sync is not None and self._full is None:
            self._sync.close()
            self._sync = None
        self._current = self._spare = None

    def _enter(self, size: int) -> Log | None:
        """Become a guest of a log, so that it is not folded; None where both are full."""
        with self._alone():
            if not self._is_usable:
                return None
            full = log = self._current = self._current or self._open()
            if log.end + size > self._log_bytes:
                if self._full is not None or size > self._log_bytes:
                    return None
                log = self._spare or self._open()
                self._current, self._full, self._spare = log, full, None
            log.guests += 1
            is_due = log is not full and not full.guests
        if is_due:
            self._aside(lambda: self._fold(full))
        return log

    def _open(self) -> Log:
        self._folder.mkdir(exist_ok=True)
        self._sync = self._sync or FolderSync(self._root)
        log = Log(self._folder / f"{os.getpid()}-{secrets.token_hex(8)}.log")
        sync_path(self._folder)
        sync_path(self._folder.parent)
        return log

    def _fold(self, log: Log) -> None:
        """Let a full log without guests be used again; if that fails, none is used any more."""
        is_settled = self._settle(log)
        with self._alone():
            self._full, self._spare = None, log
            self._is_usable = self._is_usable and is_settled
        self._folds.put(None)

    def _settle(self, log: Log) -> bool:
        """Sync all files that a log holds, then empty it; False where that fails, and it must stay."""
        try:
            if self._sync is not None:
                self._sync.sync_all([self._root / name for name in log.placed])
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
    """The files of a log, some at a time."""
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
    """Names and contents up to the first record that is not whole, or is of an earlier round."""
    first = record = _read_record(log, 0)
    while first is not None and record is not None and record[0] == first[0]:
        _, name, content, end = record
        yield name, content
        record = _read_record(log, end)


def _read_record(log: int, offset: int) -> tuple[int, str, bytes, int] | None:
    """Epoch, name, content and the offset behind; None where there is no whole record."""
    head = os.pread(log, _HEADER.size, offset)
    if len(head) < _HEADER.size:
        return None
    magic, epoch, name_bytes, content_bytes = _HEADER.unpack(head)
    if magic != MAGIC or content_bytes > LARGEST_BYTES or name_bytes > LARGEST_BYTES:
        return None
    rest = os.pread(log, name_bytes + _SUM_BYTES + content_bytes, offset + len(head))
    name, proof, content = rest[:name_bytes], rest[name_bytes:][:_SUM_BYTES], rest[name_bytes + _SUM_BYTES :]
    if len(content) != content_bytes or xxhash.xxh3_128_digest(head + name + content) != proof:
        return None
    return epoch, name.decode(), content, offset + len(head) + len(rest)


def _is_owned(descriptor: int) -> bool:
    """Whether the process that made this log is alive."""
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
