"""Writes all that is kept of one user into a folder: for the person themselves, or to move elsewhere."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from app.auth.hostkeys import HostKeys
from app.auth.local.users import ListedUser
from app.cli.progress import shown
from app.history import Restorer
from app.main import Stores
from app.media.unzip import fault_of_name
from storage.collection.engine.empty import create_empty
from storage.collection.package import write_package
from storage.database.history import RestorePoint
from storage.media.index import FileFacts, FileRow, MediaIndex
from storage.types import DatabaseId, DatabaseKind, UserId

COLLECTION: Final = "collection.colpkg"
ABOUT: Final = "about.json"
VERSIONS: Final = "versions"


class Exported(msgspec.Struct, frozen=True):
    """What an export holds."""

    notes: int
    media_files: int
    versions: int
    lost: tuple[str, ...]
    """Names of media files whose content is lost or damaged."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """Works beside running servers. `restorer` reads the versions of the history."""

    stores: Stores
    keys: HostKeys
    restorer: Restorer
    clock_ms: Callable[[], int]

    def export(self, user: ListedUser, folder: Path, *, with_versions: bool) -> Exported:
        """Write the newest state, and each earlier version if that is wanted, into an existing folder."""
        collections = self.restorer.list_restore_points(DatabaseId(user.id, DatabaseKind.COLLECTION))
        media = self.restorer.list_restore_points(DatabaseId(user.id, DatabaseKind.MEDIA))
        with tempfile.TemporaryDirectory(dir=self.stores.work.path, prefix="export-") as scratch:
            files = Path(scratch, "media")
            files.mkdir()
            count, lost = self._write_media(user.id, files)
            path = Path(scratch, "collection.anki2")
            if collections:
                database = DatabaseId(user.id, DatabaseKind.COLLECTION)
                self.stores.databases.export(database, collections[-1], path)
            else:
                create_empty(path)
            write_package(path, folder / COLLECTION, files)
        if with_versions and collections:
            self._write_versions(user.id, collections[:-1], folder / VERSIONS)
        about = self._about(user, collections, media, lost)
        (folder / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=2))
        stamps = self.stores.databases.head(DatabaseId(user.id, DatabaseKind.COLLECTION)).stamps
        return Exported(int(stamps.get("notes", 0)), count, len(collections), tuple(lost))

    def _write_media(self, user: UserId, into: Path) -> tuple[int, list[str]]:
        """How many files were written, and the names of those that could not be."""
        lost: list[str] = []
        count = 0
        with self._index(user) as rows:
            for name, facts in shown(rows, len(rows), "Fetching media"):
                row = FileRow(name, facts.sha256, facts.crc32, facts.size_bytes)
                if fault_of_name(name) is None and self.stores.blobs.write_file(row, into / name):
                    count += 1
                else:
                    lost.append(name)
        for name in lost:
            if fault_of_name(name) is None:  # a part of a damaged one
                (into / name).unlink(missing_ok=True)
        return count, lost

    @contextmanager
    def _index(self, user: UserId) -> Iterator[Sequence[tuple[str, FileFacts]]]:
        database = DatabaseId(user, DatabaseKind.MEDIA)
        head = self.stores.databases.head(database)
        if head.version == 0:
            yield ()
            return
        checkout = self.stores.databases.checkout(database, head)
        try:
            yield list(MediaIndex(checkout.connection).list_files())
        finally:
            self.stores.databases.discard(checkout)

    def _write_versions(self, user: UserId, points: Sequence[RestorePoint], folder: Path) -> None:
        folder.mkdir()
        for point in shown(points, len(points), "Packing earlier versions"):
            target = folder / f"{point.version}.colpkg"
            with self.restorer.exported(user, point.version, target.name) as package:
                shutil.copyfile(package, target)

    def _about(
        self,
        user: ListedUser,
        collections: Sequence[RestorePoint],
        media: Sequence[RestorePoint],
        lost: Sequence[str],
    ) -> dict[str, Any]:
        """All else that is known; times in milliseconds."""
        heads = {kind: self.stores.databases.head(DatabaseId(user.id, kind)) for kind in DatabaseKind}
        return {
            "exported_ms": self.clock_ms(),
            "user": user,
            "devices": [
                {
                    "id": record.id,
                    "client": record.client,
                    "logged_in_ms": record.created_ms,
                    "used_ms": record.used_ms,
                }
                for record in self.keys.list(user.id)
            ],
            "collection": heads[DatabaseKind.COLLECTION].stamps,
            "media": heads[DatabaseKind.MEDIA].stamps | {"lost": lost},
            "versions": {
                "collection": [_version(point) for point in collections],
                "media": [_version(point) for point in media],
            },
        }


def _version(point: RestorePoint) -> dict[str, int]:
    return {"version": point.version, "committed_ms": point.time_ms, "bytes": point.chain[-1].size_bytes}
