"""Reads what other sync servers keep: a folder per user with collection, media and a media database.

The official server has them in SYNC_BASE; older Python servers in `collections/users`, or `collections`.
Nothing is written there, and nothing is read while that server runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import apsw
import msgspec

COLLECTION = "collection.anki2"
MEDIA = "media.db"
MEDIA_FOLDER = "media"
_PLACES = ("", "users", "collections", "collections/users")
"""Where the users' folders are, below what the operator names."""
_SHA1_BYTES = 20
_LOG_VERSION = 5
_MEDIA_VERSION = 4
# SQLite's lock bytes: PENDING, RESERVED, 510 SHARED. Source: sqlite.org/fileformat2.html, "lock-byte page".
_LOCK_START, _LOCK_BYTES = 0x40000000, 512


class OfficialError(Exception):
    """The folder cannot be read; the text is for the person at the command."""


class OfficialFile(msgspec.Struct, frozen=True):
    """A row of a media database."""

    usn: int
    name: str
    size_bytes: int
    """0: deleted. 1 where the database knows no sizes."""
    mtime_s: int
    sha1: bytes = b""
    """Empty if it is not known."""


class UserFolder(msgspec.Struct, frozen=True):
    """The folder of one user."""

    path: Path
    media: str = MEDIA
    """The media database."""
    files: str = MEDIA_FOLDER
    """The folder with the media files."""

    @property
    def name(self) -> str:
        """The user's name, as that server knew it."""
        return self.path.name

    @property
    def collection(self) -> Path:
        """The collection, which need not be there."""
        return self.path / COLLECTION

    @property
    def media_database(self) -> Path:
        """The media database, which need not be there."""
        return self.path / self.media


_LAYOUTS = ((MEDIA, MEDIA_FOLDER), ("collection.media.server.db", "collection.media"))
"""Of the official server, and of the older Python servers."""


def list_users(base: Path) -> list[UserFolder]:
    """The users' folders, by name."""
    for place in _PLACES:
        folder = base / place
        paths = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if found := [user for path in paths if (user := _find_user(path)) is not None]:
            return found
    return []


def _find_user(path: Path) -> UserFolder | None:
    for media, files in _LAYOUTS:
        if (path / media).is_file() or (path / files).is_dir():
            return UserFolder(path, media, files)
    return UserFolder(path) if (path / COLLECTION).is_file() else None


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


def read_media(database: Path) -> tuple[int, list[OfficialFile]]:
    """The last USN, and the rows by USN; of a copy. Raises: OfficialError."""
    with contextlib.closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        try:
            version = connection.pragma("user_version")
            columns = {row[1] for row in connection.execute("PRAGMA table_info(media)")}
            if version == _LOG_VERSION:
                return _read_log(connection)
            if version == _MEDIA_VERSION:
                return _read_official(connection)
            if {"fname", "usn", "csum"} <= columns:
                return _read_older(connection)
        except (apsw.Error, TypeError, ValueError) as exc:
            raise OfficialError(f"the media database cannot be read: {exc}") from exc
    raise OfficialError(f"{MEDIA} has version {version}: start a current official server on it once")


def _read_official(connection: apsw.Connection) -> tuple[int, list[OfficialFile]]:
    last_usn: int = connection.execute("SELECT last_usn FROM meta").get
    rows = connection.execute("SELECT usn, fname, size, mtime, csum FROM media ORDER BY usn, fname")
    return last_usn, [
        OfficialFile(usn, name, size, mtime, _sha1_of(csum)) for usn, name, size, mtime, csum in rows
    ]


def _read_older(connection: apsw.Connection) -> tuple[int, list[OfficialFile]]:
    """A row per name; those that were removed have no checksum. The last USN is that of the last row."""
    rows: Any = connection.execute("SELECT usn, fname, csum FROM media ORDER BY usn, fname").fetchall()
    files = [OfficialFile(usn, name, 1 if csum else 0, 0, _sha1_of(csum)) for usn, name, csum in rows]
    return max((file.usn for file in files), default=0), files


def _read_log(connection: apsw.Connection) -> tuple[int, list[OfficialFile]]:
    """A log with a USN for each addition and removal; the last one of a name counts."""
    last_usn: int = connection.execute("SELECT last_usn FROM meta").get
    rows: Any = connection.execute(
        "SELECT max(usn), fname, operation, timestamp, csum FROM media_operations GROUP BY fname ORDER BY 1"
    ).fetchall()
    files = [
        OfficialFile(usn, name, 1 if operation == "add" else 0, int(time_s), _sha1_of(csum))
        for usn, name, operation, time_s, csum in rows
    ]
    return max((file.usn for file in files), default=last_usn), files


def _sha1_of(value: Any) -> bytes:
    """A checksum as 20 bytes, as hexadecimal digits, or none."""
    if isinstance(value, str):
        value = bytes.fromhex(value)
    return value if isinstance(value, bytes) and len(value) == _SHA1_BYTES else b""


def list_media(folder: UserFolder) -> list[OfficialFile]:
    """Rows for the files of a folder that has no media database, with USNs from 1."""
    names = sorted(path.name for path in (folder.path / folder.files).iterdir())
    found = [name for name in names if find_media_file(folder, name) is not None]
    return [OfficialFile(usn, name, 1, 0) for usn, name in enumerate(found, 1)]


def find_media_file(folder: UserFolder, name: str) -> Path | None:
    """Where a media file lies; None where it is lost, empty, or its name would lead elsewhere."""
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        return None
    for spelt in (name, unicodedata.normalize("NFD", name)):
        path = folder.path / folder.files / spelt
        if path.is_file() and not path.is_symlink() and path.stat().st_size:
            return path
    return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with _open(path) as file:
        # A reader's lock is all that a read-only folder allows; a running server holds an exclusive one.
        kind = fcntl.LOCK_EX if file.writable() else fcntl.LOCK_SH
        try:
            fcntl.lockf(file, kind | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_START)
        except OSError as exc:
            raise OfficialError(f"{path} is in use: stop that server first") from exc
        yield


def _open(path: Path) -> BinaryIO:
    return path.open("r+b" if os.access(path, os.W_OK) else "rb")
