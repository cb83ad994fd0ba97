"""Whole accounts as packages (.colpkg), which Anki imports and exports: out with all media, and in.

A package that comes in takes the way of a client's upload, with all its checks; what it replaces stays in the
history.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import zstandard

from app.errors import NO_REFUSAL, ProtocolError, refusal
from app.media.gate import IndexGate
from app.media.unzip import MAX_FILE_BYTES, fault_of_name
from app.sync.service import SyncService
from app.sync.transfer import OK
from storage.collection.package import make_own, read_package, write_package
from storage.database.origin import Kind, Origin
from storage.database.store import DatabaseStore
from storage.errors import Corrupt, TooLarge
from storage.media.blobs import LARGE_BYTES, Blobs, Digester, NewBlob
from storage.media.index import FileFacts, FileRow, MediaIndex
from storage.types import DatabaseId, DatabaseKind, Offload, UserId

PACKAGE_BYTES: Final = 4 * 1024**3
"""What a package may have, packed and unpacked."""

_PIECE_BYTES: Final = 1 << 20
_AT_ONCE: Final = 500
_COLLECTIONS: Final = frozenset({"collection.anki2", "collection.anki21", "collection.anki21b"})


class PackageRefused(Exception):
    """A package that cannot be taken; the text is for the person who sent it."""


class Taken(msgspec.Struct, frozen=True):
    """What a package brought."""

    notes: int
    files: int
    """Media files that it has; those that were there with the same content included."""
    refused: tuple[str, ...]
    """Names that no file may have here."""


@dataclass(frozen=True, slots=True)
class Packages:
    """Makes and takes packages. `scratch` is a folder for temporary files."""

    databases: DatabaseStore
    collections: SyncService
    gate: IndexGate
    blobs: Blobs
    scratch: Path
    limit_bytes: int
    """No larger collection is taken."""
    offload: Offload[Any]
    clock_ms: Callable[[], int]

    @contextmanager
    def whole(self, user: UserId) -> Iterator[Path]:
        """A package of the newest collection with all media; gone after the block.

        Media whose content is lost is left out. Raises: NotFound if there is no collection.
        """
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="export-") as folder:
            collection, package, media = (Path(folder, name) for name in ("collection", "package", "media"))
            database = DatabaseId(user, DatabaseKind.COLLECTION)
            self.databases.export(database, self.databases.history(database)[-1], collection)
            media.mkdir()
            nothing: list[FileRow] = []
            for row in self.gate.read(user, _rows, otherwise=nothing):
                self._write(row, media / row.name)
            self.offload(lambda: write_package(collection, package, media))
            yield package

    def _write(self, row: FileRow, path: Path) -> None:
        pieces = None if fault_of_name(row.name) else self.blobs.find_stream(row)
        if pieces is None:
            return
        try:
            with path.open("wb") as file:
                for piece in pieces:
                    self.offload(partial(file.write, piece))
        except Corrupt:
            path.unlink()

    def take(self, user: UserId, package: Path) -> Taken:
        """Make a package the user's collection, and add its media to theirs.

        Devices then have to choose a direction. Raises: PackageRefused.
        """
        with tempfile.TemporaryDirectory(dir=self.scratch, prefix="package-") as name:
            folder = Path(name)
            try:
                self.offload(lambda: check_package(package, self.limit_bytes))
                collection, media = self.offload(lambda: read_package(package, folder))
            except (Corrupt, zipfile.BadZipFile, zstandard.ZstdError, ProtocolError) as exc:
                raise PackageRefused("this is not a whole collection package (.colpkg) of Anki") from exc
            except TooLarge as exc:
                raise PackageRefused(str(exc)) from exc
            head = self.databases.head(DatabaseId(user, DatabaseKind.COLLECTION))
            self.offload(lambda: make_own(collection, head.stamps, self.clock_ms()))
            paths = sorted(path for path in media.iterdir() if path.is_file())
            sound = [path for path in paths if not fault_of_name(path.name)]
            # Media first: a collection that is there while its media is not would be synced so.
            for at in range(0, len(sound), _AT_ONCE):
                self._add_media(user, sound[at : at + _AT_ONCE])
            refusal.set(NO_REFUSAL)
            text = self.collections.upload(user, collection, kind=Kind.PAGE)
            if text != OK:
                raise PackageRefused(refusal.get().text or text)
            head = self.databases.head(DatabaseId(user, DatabaseKind.COLLECTION))
            refused = tuple(path.name for path in paths if fault_of_name(path.name))
            return Taken(int(head.stamps["notes"]), len(sound), refused)

    def _add_media(self, user: UserId, paths: Sequence[Path]) -> None:
        found = [(path.name, self.offload(partial(_digested, path))) for path in paths]
        self.blobs.put_new([blob for _, (_, blob) in found])
        changes: list[tuple[str, FileFacts | None]] = [(name, facts) for name, (facts, _) in found]
        now_s = self.clock_ms() // 1000
        self.gate.change(user, lambda index: index.apply(changes, now_s), origin=Origin(Kind.PAGE, ""))


def check_package(package: Path, limit_bytes: int) -> None:
    """Look at all members of a package before the engine unpacks any of them to the disk.

    Raises: TooLarge for a package, a collection or a file that is too large when it is unpacked;
    zipfile.BadZipFile; zstandard.ZstdError.
    """
    left_bytes = PACKAGE_BYTES
    with zipfile.ZipFile(package) as archive:
        for info in archive.infolist():
            most_bytes = limit_bytes if info.filename in _COLLECTIONS else MAX_FILE_BYTES
            left_bytes -= _unpacked_bytes(archive, info, min(most_bytes, left_bytes))


def _unpacked_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most_bytes: int) -> int:
    """How many bytes a member has; most are zstd frames within the zip."""
    with archive.open(info) as member:
        is_frame = member.read(4) == zstandard.MAGIC_NUMBER.to_bytes(4, "little")
        member.seek(0)
        source: Any = zstandard.ZstdDecompressor().stream_reader(member) if is_frame else member
        size_bytes = 0
        while piece := source.read(_PIECE_BYTES):
            size_bytes += len(piece)
            if size_bytes >= most_bytes:
                raise TooLarge(f"{info.filename} has more than {most_bytes} bytes when it is unpacked")
    return size_bytes


def _rows(index: MediaIndex) -> list[FileRow]:
    return [FileRow(name, facts.sha256, facts.crc32, facts.size_bytes) for name, facts in index.list_files()]


def _digested(path: Path) -> tuple[FileFacts, NewBlob]:
    digester, size_bytes = Digester(), path.stat().st_size
    content = bytearray()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digester.update(piece)
            if size_bytes < LARGE_BYTES:
                content += piece
    facts = digester.facts()
    return facts, NewBlob(facts.sha256, bytes(content) if size_bytes < LARGE_BYTES else path)
