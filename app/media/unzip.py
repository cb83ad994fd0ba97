"""Unpacks and hashes the zip of `uploadChanges`, and checks it. Called by `service`.

A batch has at most 25 files; large contents are written to temporary files. Time and memory of unpacking are
limited, whatever the zip says. The user's data are not changed here.
Source: rslib/src/sync/media/zip.rs (unzip_and_validate_files).
"""

from __future__ import annotations

import errno
import io
import struct
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from app.errors import ProtocolError
from app.media.messages import UploadEntries, read_upload_entries
from app.media.plainzip import PlainZip, find_plain_zip
from storage.media.blobs import LARGE_BYTES, Digester, NewBlob, facts_of
from storage.media.index import FileFacts

MAX_ENTRIES: Final = 25
MAX_NAME_BYTES: Final = 255
MAX_FILE_BYTES: Final = 100 * 1024 * 1024
_META: Final = "_meta"
_META_BYTES: Final = 50 * 1024
_PIECE_BYTES: Final = 256 * 1024
_IN_MEMORY_BYTES: Final = 8 * 1024 * 1024
"""Contents in memory, in total; more go to files. Clients add no more files to a zip once it has 2.5 MiB."""

_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 0x1
_LOCAL_HEADER_BYTES: Final = 30


class Batch:
    """The changes of one uploaded zip; `close` removes the temporary files."""

    def __init__(self, scratch: Path) -> None:
        self.changes: list[tuple[str, FileFacts | None]] = []
        self.blobs: list[NewBlob] = []
        self._scratch = scratch
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def new_path(self) -> Path:
        """The path for the next large content."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(dir=self._scratch, prefix="zip-")
        return Path(self._folder.name, str(len(self.blobs)))

    def close(self) -> None:
        """Remove the temporary files that were not moved away."""
        if self._folder is not None:
            self._folder.cleanup()


def unpack(zipped: bytes | Path, batch: Batch, limit_bytes: int) -> None:
    """Fill `batch` with the changes in a zip (in memory, or a file) of at most `limit_bytes` unpacked.

    Raises: ProtocolError if the zip, a name or a content is invalid.
    """
    # Nearly all zips of clients have this form, for which `zipfile` is not needed.
    plain = find_plain_zip(zipped) if isinstance(zipped, bytes) else None
    if plain is not None and plain.size_of(_META) <= _META_BYTES:
        _take_plain(plain, batch, limit_bytes)
        return
    with _refusing(), _opened(zipped) as file, zipfile.ZipFile(file) as archive:
        _check_overlaps(archive)
        _Unpacking(archive, batch, limit_bytes).run(_checked_entries(_read_meta(archive)))


def _take_plain(archive: PlainZip, batch: Batch, limit_bytes: int) -> None:
    """Fill `batch` from a zip of the form that clients write."""

    def read(name: str) -> tuple[bytes, int]:
        member = archive.members.get(name)
        if member is None:
            raise ProtocolError("a member is missing in the zip")
        content = archive.read(member)
        if content is None:
            raise ProtocolError(f"no sound zip: bad CRC-32 of {name!r}")
        return content, member.crc32

    left_bytes, taken = limit_bytes, dict[str, FileFacts]()
    for name, member in _checked_entries(read(_META)[0]):
        if member and member not in taken:
            content, crc32 = read(member)
            left_bytes -= len(content)
            if left_bytes < 0:
                raise ProtocolError("the zip unpacks to more than the limit")
            if not content:
                raise ProtocolError("a file of zero bytes")
            taken[member] = facts_of(content, crc32)
            batch.blobs.append(NewBlob(taken[member].sha256, content))
        batch.changes.append((name, taken[member] if member else None))


class _Unpacking:
    """Unpacks the members that `_meta` lists, from a zip of any other form."""

    def __init__(self, archive: zipfile.ZipFile, batch: Batch, limit_bytes: int) -> None:
        self._archive = archive
        self._batch = batch
        self._left_bytes = limit_bytes
        self._memory_bytes = _IN_MEMORY_BYTES
        self._facts: dict[str, FileFacts] = {}

    def run(self, entries: UploadEntries) -> None:
        for name, member in entries:
            self._batch.changes.append((name, self._take(member) if member else None))

    def _take(self, member: str) -> FileFacts:
        """The facts of a member; several files may have the same member."""
        if member not in self._facts:
            self._facts[member] = self._unpack(_checked(self._archive.getinfo(member)))
        return self._facts[member]

    def _unpack(self, info: zipfile.ZipInfo) -> FileFacts:
        size_bytes = info.file_size  # `zipfile` never gives more than this, whatever the member contains
        # Checked before a member is read.
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise ProtocolError("the zip unpacks to more than the limit")
        content: bytes | Path
        with self._archive.open(info) as packed:
            # Small members stay in memory, as long as there are not too many.
            if size_bytes < LARGE_BYTES and size_bytes <= self._memory_bytes:
                self._memory_bytes -= size_bytes
                content = b"".join(_pieces(packed))
                facts = facts_of(content, info.CRC)  # `zipfile` has compared it after the last piece
            else:
                content = self._batch.new_path()
                digester = Digester()
                with content.open("wb") as file:
                    for piece in _pieces(packed):
                        digester.update(piece)
                        file.write(piece)
                facts = digester.facts()
        if facts.size_bytes == 0:
            raise ProtocolError("a file of zero bytes")
        self._batch.blobs.append(NewBlob(facts.sha256, content))
        return facts


def _pieces(packed: IO[bytes]) -> Iterator[bytes]:
    """The content in pieces: `zipfile` enforces the size of a member only if it is read so."""
    while piece := packed.read(_PIECE_BYTES):
        yield piece


def _read_meta(archive: zipfile.ZipFile) -> bytes:
    with archive.open(_checked(archive.getinfo(_META), check_size=False)) as packed:
        return packed.read(_META_BYTES)


def _checked_entries(meta: bytes) -> UploadEntries:
    entries = read_upload_entries(meta)
    if len(entries) > MAX_ENTRIES:
        raise ProtocolError(f"{len(entries)} files in a zip, at most {MAX_ENTRIES} are allowed")
    for name, member in entries:
        if fault := fault_of_name(name, is_removed=not member):
            raise ProtocolError(fault)
    return entries


def fault_of_name(name: str, *, is_removed: bool = False) -> str | None:
    """Why no file may have this name; None if one may.

    Control characters, backslashes, colons and the like are kept as they come, as the official
    server does: to rename silently would break the clients' counts. Removing what can never have
    been there does nothing, so only a file that is added needs a name that a folder can hold.
    """
    if len(name.encode()) > MAX_NAME_BYTES:
        return "a file name is too long"
    # Clients use a flat folder.
    if "/" in name:
        return "a file name with a separator"
    if not unicodedata.is_normalized("NFC", name):
        return "a file name that is not in NFC"
    if not is_removed and (name in ("", ".", "..") or "\0" in name):
        return "a file name that no folder can hold"
    return None


def _checked(info: zipfile.ZipInfo, *, check_size: bool = True) -> zipfile.ZipInfo:
    if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
        raise ProtocolError("a zip member is encrypted or packed in an unknown way")
    if check_size and info.file_size > MAX_FILE_BYTES:
        raise ProtocolError("a file is too large")
    return info


def _check_overlaps(archive: zipfile.ZipFile) -> None:
    """Members must not overlap, so that a small zip cannot have many large members (a zip bomb)."""
    end = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise ProtocolError("zip members overlap")
        end = info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size
    if end > archive.start_dir:
        raise ProtocolError("zip members overlap")


def _opened(zipped: bytes | Path) -> _BoundedFile | _BoundedBytes:
    return _BoundedBytes(zipped) if isinstance(zipped, bytes) else _BoundedFile(io.FileIO(zipped))


class _BoundedFile(io.BufferedReader):
    """A file that rejects large reads, so that `zipfile` cannot read a directory of a million members."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(_bounded(size))


class _BoundedBytes(io.BytesIO):
    """The same for a zip in memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(_bounded(size))


def _bounded(size: int | None) -> int | None:
    if size is not None and size > _PIECE_BYTES:
        raise ProtocolError("the zip's directory is too large")
    return size


@contextmanager
def _refusing() -> Iterator[None]:
    """Errors of `zipfile` for invalid input become ProtocolError; errors of the disk do not."""
    try:
        yield
    except KeyError as exc:
        raise ProtocolError("a member is missing in the zip") from exc
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        OverflowError,
        ValueError,
    ) as exc:
        raise ProtocolError(f"no sound zip: {exc}") from exc
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # EINVAL: a seek to before the start of the file
            raise
        raise ProtocolError("no sound zip: an offset outside of it") from exc
