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

MAGIC: Final = b"ankiahed"
LOG_BYTES: Final = 64 << 20
LARGEST_BYTES: Final = 256 << 10
"""A larger file costs more to write twice than to sync."""
MOST_AT_ONCE_BYTES: Final = 4 << 20

_HEADER: Final = struct.Struct("<8sQIQ")
_SUM_BYTES: Final = 16
_AHEAD_BYTES: Final = 1 << 20
_SMALL_BYTES: Final = 128 << 10

Files = Sequence[tuple[str, bytes | memoryview]]
Put = Callable[[Sequence[tuple[str, bytes]]], None]


class WriteAhead:
    """The log of one process; any number of its threads may use it.

    Whoever got True from `keep` places the files under their names, and then calls `placed`.
    """

    def __init__(self, folder: Path, root: Path, *, log_bytes: int = LOG_BYTES) -> None:
        """Logs are made in `folder`, by the first `keep`; names are relative to `root`."""
        self._folder, self._root, self._log_bytes = folder, root, log_bytes
        self._path: Path | None = None
        self._log = -1
        self._epoch = self._end = self._prepared = self._guests = 0
        self._placed: dict[str, None] = {}
        self._is_usable = True
        # A lock for native threads alone, which gevent leaves as it is: whoever has the token is inside.
        self._turn: _queue.SimpleQueue[None] = _queue.SimpleQueue()
        self._turn.put(None)

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

    def keep(self, files: Files) -> bool:
        """Make files durable here; False where they are too large or there is no room just now.

        Blocks. The files must not be there yet, or be the same.
        """
        records, size = [], 0
        for name, content in files:
            if len(content) > LARGEST_BYTES:
                return False
            size += _HEADER.size + len(name.encode()) + _SUM_BYTES + len(content)
        if size > MOST_AT_ONCE_BYTES or not self._enter(size):
            return False
        try:
            with self._alone():
                for name, content in files:
                    records.extend(_record(self._epoch, name.encode(), content))
                self._write(records, size)
            os.fdatasync(self._log)
        except OSError:
            # After a failed sync nobody knows what is on the disk: the log stays, for the next start.
            self._is_usable = False
            self.placed([])
            return False
        return True

    def placed(self, names: Sequence[str]) -> None:
        """The files are under their names, or never will be."""
        with self._alone():
            self._guests -= 1
            self._placed.update(dict.fromkeys(names))

    def forget(self, names: Sequence[str]) -> None:
        """These files were deleted: the log is not to bring them back."""
        if any(name in self._placed for name in names) and self._close_gate():
            self._fold()

    def close(self) -> None:
        """Sync what was placed and remove the log; without this the next start does it."""
        if self._path is not None and self._close_gate() and self._fold():
            self._path.unlink(missing_ok=True)
            os.close(self._log)
            self._path, self._is_usable = None, False

    def _enter(self, size: int) -> bool:
        """Become a guest, after whom nobody folds the log; False where it is full and has other guests."""
        for _ in range(2):
            with self._alone():
                if not self._is_usable:
                    return False
                if self._path is None:
                    self._open()
                if self._end + size <= self._log_bytes:
                    self._guests += 1
                    return True
            if not (self._close_gate() and self._fold()):
                return False
        return False

    def _open(self) -> None:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{os.getpid()}-{secrets.token_hex(8)}.log"
        with _locked(self._folder / "lock"):
            self._log = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._log, fcntl.LOCK_EX)
        self._path, self._epoch = path, secrets.randbits(64)
        _sync(self._folder)
        _sync(self._folder.parent)

    def _write(self, records: list[bytes | memoryview], size: int) -> None:
        end = self._end + size
        if end > self._prepared and size <= _SMALL_BYTES:
            # Blocks that are there already are synced without the file system's journal.
            records.append(bytes(_AHEAD_BYTES))
            size += _AHEAD_BYTES
        if os.pwritev(self._log, records, self._end) != size:
            raise OSError("the log was not written whole")
        self._prepared = max(self._prepared, self._end + size)
        self._end = end

    def _close_gate(self) -> bool:
        """Keep new guests out; False where there are some, or the log is of no use any more."""
        with self._alone():
            if self._guests or not self._is_usable:
                return False
            self._is_usable = False
            return True

    def _fold(self) -> bool:
        """Sync all placed files and begin the log anew; opens the gate unless that fails."""
        try:
            _sync_all([self._root / name for name in self._placed])
            os.pwrite(self._log, bytes(len(MAGIC)), 0)
            os.fdatasync(self._log)
        except OSError:
            return False
        with self._alone():
            self._placed = {}
            self._end, self._epoch, self._is_usable = 0, secrets.randbits(64), True
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._turn.get()
        try:
            yield
        finally:
            self._turn.put(None)


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


def _sync_all(paths: Sequence[Path]) -> None:
    """Sync files and their folders; those that are deleted by now are left out."""
    for path in (*paths, *dict.fromkeys(path.parent for path in paths)):
        with suppress(FileNotFoundError, NotADirectoryError):
            _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
