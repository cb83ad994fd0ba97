"""Reads what the official server keeps in SYNC_BASE: a folder per user with collection and media.

Refuses to write there, and to read while that server runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import apsw
import msgspec

COLLECTION = "collection.anki2"
MEDIA = "media.db"
MEDIA_FOLDER = "media"
_MEDIA_VERSION = 4
# SQLite's lock bytes: PENDING, RESERVED, 510 SHARED. Source: sqlite.org/fileformat2.html, "lock-byte page".
_LOCK_START, _LOCK_BYTES = 0x40000000, 512


class OfficialError(Exception):
    """The folder cannot be read; the text is for the person at the command."""


class OfficialFile(msgspec.Struct, frozen=True):
    """A row of the official media database."""

    usn: int
    name: str
    size_bytes: int
    """0: deleted."""
    mtime_s: int


def list_users(base: Path) -> list[Path]:
    """The users' folders, by name."""
    folders = (path for path in base.iterdir() if path.is_dir())
    return sorted(path for path in folders if (path / COLLECTION).is_file() or (path / MEDIA).is_file())


def copy_database(path: Path, into: Path) -> None:
    """Copy an SQLite database with what its write-ahead log holds; the original stays untouched.

    Raises: OfficialError while another process has it open.
    """
    with _locked(path):
        shutil.copyfile(path, into)
        log = Path(f"{path}-wal")
        if log.is_file():
            shutil.copyfile(log, f"{into}-wal")
    try:
        with contextlib.closing(apsw.Connection(str(into))) as connection:
            connection.pragma("journal_mode", "DELETE")  # folds the log in
    except apsw.Error as exc:
        raise OfficialError(f"{path} is no sound database: {exc}") from exc


def read_media(database: Path) -> tuple[int, Iterator[OfficialFile]]:
    """The last USN, and the rows by USN; of a copy."""
    connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        version = connection.pragma("user_version")
        if version != _MEDIA_VERSION:
            raise OfficialError(f"{MEDIA} has version {version}: start a current official server on it once")
        last_usn: int = connection.execute("SELECT last_usn FROM meta").get
        rows = connection.execute("SELECT usn, fname, size, mtime FROM media ORDER BY usn, fname")
    except apsw.Error as exc:
        raise OfficialError(f"{MEDIA} cannot be read: {exc}") from exc
    return last_usn, (OfficialFile(*row) for row in rows)


def find_media_file(folder: Path, name: str) -> Path | None:
    """Where a media file lies; None where it is lost, empty, or its name would lead elsewhere."""
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        return None
    path = folder / MEDIA_FOLDER / name
    return path if path.is_file() and not path.is_symlink() and path.stat().st_size else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with _open(path) as file:
        # A reader's lock is all that a read-only folder allows; a running server holds an exclusive one.
        kind = fcntl.LOCK_EX if file.writable() else fcntl.LOCK_SH
        try:
            fcntl.lockf(file, kind | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_START)
        except OSError as exc:
            raise OfficialError(f"{path} is in use: stop the official server first") from exc
        yield


def _open(path: Path) -> BinaryIO:
    return path.open("r+b" if os.access(path, os.W_OK) else "rb")
