"""A working copy (checkout): a link to a base file, a write-ahead log, and one SQLite connection over both.

A private copy belongs to one process. A shared one (`storage.database.copies`) is used by all processes of a
host, one at a time. Neither is ever checkpointed: the base is never written, so the log holds exactly the
changes. Made by `storage.database.assemble` and handed out by `storage.database.store`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec

from storage.database.local.image import Image, Layout, PageReader
from storage.disk import is_disk_fault
from storage.errors import Corrupt, StorageError, Unavailable
from storage.types import DatabaseId, Offload


class local_disk:  # noqa: N801 - reads as a function; a class, as every request passes here often
    """Turns faults of this host's disk into `Unavailable`, as they affect local copies only."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        is_fault = isinstance(exc, OSError) and is_disk_fault(exc)
        if is_fault or isinstance(exc, _DISK_FAULTS):
            raise Unavailable(f"the local disk: {exc}") from exc


_DISK_FAULTS = (apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError)


def log_path(path: Path) -> Path:
    """The name that SQLite gives the log of a database file."""
    return path.with_name(path.name + "-wal")


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """An earlier version of a shared copy, by the length that its log had then."""

    version: int
    frames: int
    """Length of the log at that version."""
    page_count: int
    checksum: int


def _nothing() -> None:
    pass


def remove_copy(path: Path) -> None:
    """Remove a working copy's link and the files that belong to it."""
    for suffix in ("", "-wal", "-shm", "-journal", "-sums"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


class _CommittedFrames:
    """The length of the log after the last commit, reported by SQLite's WAL hook."""

    def __init__(self, count: int) -> None:
        self.count = count

    def note(self, _connection: apsw.Connection, _schema: str, frames: int) -> int:
        self.count = frames
        return apsw.SQLITE_OK


class Checkout:
    """One database at one version, for one user at a time, until it is released or discarded.

    `connection` is open, in WAL mode, and never checkpoints. `layout` is the committed state of the files.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # one constructor call, in open_checkout
        self,
        database: DatabaseId,
        version: int,
        path: Path,
        layout: Layout,
        connection: apsw.Connection,
        offload: Offload[Any],
    ) -> None:
        self.database, self.version, self.path, self.layout = database, version, path, layout
        self.connection = connection
        self.marks: tuple[Mark, ...] = ()
        """Earlier versions that the log of a shared copy contains, oldest first."""
        self.before_commit: Callable[[], None] = _nothing
        """Called before SQLite's COMMIT; a shared copy then marks its state as in doubt."""
        self._offload = offload
        self._frames = _CommittedFrames(0 if layout.log is None else layout.log.frames)
        connection.set_wal_hook(self._frames.note)
        stat = path.stat()
        # Identity and state of the base at the time of opening: see `check_base`.
        self._base = (stat.st_ino, stat.st_size, stat.st_mtime_ns)

    @property
    def page_size(self) -> int:
        """Size of a page in bytes."""
        return self.layout.page_size

    @property
    def page_count(self) -> int:
        """Pages of the committed state."""
        return self.layout.page_count

    @property
    def committed_frames(self) -> int:
        """Length of the log in frames after the last local COMMIT."""
        return self._frames.count

    def advance(self, version: int, layout: Layout) -> None:
        """Note that the files are at another version now; the open connection sees it by itself."""
        self.version, self.layout = version, layout
        self._frames.count = 0 if layout.log is None else layout.log.frames

    def begin(self) -> None:
        """Open a transaction unless one is open."""
        if not self.connection.in_transaction:
            with local_disk():
                self.connection.execute("BEGIN IMMEDIATE")

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Within the block all statements see the same state, and none can write."""
        # One transaction, so that all statements see the same version.
        self.connection.execute("BEGIN; PRAGMA query_only = 1").fetchall()
        try:
            yield
        finally:
            self.connection.execute("PRAGMA query_only = 0; ROLLBACK").fetchall()

    def rollback(self) -> None:
        """Roll back the open transaction, if there is one."""
        if self.connection.in_transaction:
            with local_disk():
                self.connection.execute("ROLLBACK")

    def image(self) -> Image:
        """The pages of the committed state."""
        return Image(self.path, log_path(self.path), self.layout)

    def reader(self) -> PageReader:
        """The committed state as a file to read; it does not change when this copy is used again."""
        with local_disk():
            return PageReader(self.image(), self._offload)

    def check_base(self) -> None:
        """Check that the base file is the one that was opened, and unchanged. Raises: Corrupt.

        It also fails after a page with a wrong hash was found in the base: see `Image._check_base`.
        """
        stat = self.path.stat()
        found = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if found != self._base:
            raise Corrupt(self.path.name, self._base, found)

    def is_untouched(self) -> bool:
        """As `check_base`, but returns the result."""
        try:
            self.check_base()
        except (Corrupt, OSError):
            return False
        return True

    def trim(self, kept_bytes: int) -> None:
        """Free SQLite's page cache if it is larger than `kept_bytes`; a small one speeds up the next sync."""
        used_bytes, _ = self.connection.status(apsw.SQLITE_DBSTATUS_CACHE_USED)
        if used_bytes > kept_bytes:
            self.connection.release_memory()

    def close(self) -> None:
        """Close the connection; the files stay."""
        self.connection.close()

    def remove(self) -> None:
        """Close the connection and remove the files."""
        with contextlib.suppress(apsw.Error):
            self.connection.close()
        remove_copy(self.path)


def open_checkout(  # noqa: PLR0913  # what is fixed per process is named
    database: DatabaseId,
    version: int,
    path: Path,
    layout: Layout,
    *,
    page_cache_bytes: int,
    configure: Callable[[apsw.Connection], None],
    offload: Offload[Any],
    is_shared: bool = False,
) -> Checkout:
    """Open a copy whose files are ready. Raises: Corrupt, Unavailable."""
    with local_disk():
        if layout.log is not None and not is_shared:
            # SQLite would read complete transactions after the layout's end as committed ones.
            os.truncate(log_path(path), layout.log.end)
        # A private copy takes no POSIX locks: they belong to the inode, which all copies of a base share.
        vfs = "unix" if is_shared else "unix-none"
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
        try:
            _prepare(connection, page_cache_bytes, "NORMAL" if is_shared else "EXCLUSIVE")
            # The first read of SQLite, which must see exactly the layout's state.
            found = (connection.pragma("page_size"), connection.pragma("page_count"))
            if found != (layout.page_size, layout.page_count):
                raise Corrupt(path.name, (layout.page_size, layout.page_count), found)
            checkout = Checkout(database, version, path, layout, connection, offload)
            configure(connection)
        except (apsw.CorruptError, apsw.NotADBError) as exc:
            connection.close()
            raise Corrupt(path.name, "an SQLite file", str(exc)) from exc
        except (StorageError, apsw.Error, OSError):
            connection.close()
            raise
    return checkout


def _prepare(connection: apsw.Connection, page_cache_bytes: int, locking: str) -> None:
    # Never checkpoint: neither on closing nor, below, automatically.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 1)
    # Some of these return a row, so the cursor must be run to its end. Syncing is off, as a copy need not
    # survive a crash of the host (`cache.clear_after_reboot`).
    connection.execute(
        f"PRAGMA locking_mode = {locking}; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;"
        "PRAGMA synchronous = OFF; PRAGMA cell_size_check = 1;"
        f"PRAGMA cache_size = {-page_cache_bytes // 1024}"
    ).fetchall()
