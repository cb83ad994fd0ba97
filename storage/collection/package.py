"""A collection as the package (.colpkg) that Anki writes as a backup and imports."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw

from storage.collection.oneway import force_one_way
from storage.collection.schema import configure
from storage.errors import Corrupt
from storage.lazy import LazyModule

_anki: Any = LazyModule("anki._backend")
_errors: Any = LazyModule("anki.errors")
_TABLES = ("cards", "config", "deck_config", "decks", "notes", "notetypes", "revlog", "tags", "templates")
"""Those with a USN."""


def write_package(collection: Path, into: Path, media: Path | None = None) -> None:
    """Pack a throw-away copy of a collection, which the engine opens, and the files of the folder `media`.

    Raises: Corrupt.
    """
    backend = _anki.RustBackend(langs=["en"], server=False)
    folder = media or collection.with_name(collection.name + ".media")
    folder.mkdir(exist_ok=True)
    try:
        backend.open_collection(
            collection_path=str(collection), media_folder_path=str(folder), media_db_path=f"{collection}.db"
        )
        backend.export_collection_package(out_path=str(into), include_media=media is not None, legacy=False)
    except _errors.AnkiException as exc:
        raise Corrupt(str(collection), "a collection that the engine can pack", str(exc)) from exc


def read_package(package: Path, folder: Path) -> tuple[Path, Path]:
    """Unpack a package into an empty folder: the collection, at schema 18, and the folder of its media.

    Raises: Corrupt.
    """
    backend = _anki.RustBackend(langs=["en"], server=False)
    collection, media = folder / "collection.anki2", folder / "collection.media"
    # An empty media folder for the engine.
    media.mkdir()
    places = {"media_folder_path": str(media), "media_db_path": f"{media}.db"}
    try:
        backend.import_collection_package(
            col_path=str(collection),
            backup_path=str(package),
            media_folder=str(media),
            media_db=f"{media}.db",
        )
        backend.open_collection(collection_path=str(collection), **places)
        backend.close_collection(downgrade_to_schema11=False)
    except _errors.AnkiException as exc:
        raise Corrupt(str(package), "a collection package", str(exc)) from exc
    return collection, media


def make_own(collection: Path, replaced: Mapping[str, int | bool], now_ms: int) -> None:
    """Make an unpacked collection the server's: nothing in it is still to be sent, and no device has it.

    `replaced` are the stamps of the collection that it takes the place of. What was changed since the last
    sync of the device that wrote the package counts as sent, as with a full upload.
    Source: rslib/src/sync/collection/upload.rs, rslib/src/storage/sync.rs of ankitects/anki.
    """
    with contextlib.closing(apsw.Connection(str(collection))) as connection:
        configure(connection)
        with connection:
            for table in _TABLES:
                connection.execute(f"UPDATE {table} SET usn = 0 WHERE usn = -1")  # noqa: S608 - fixed words
            connection.execute("DELETE FROM graves")
            force_one_way(connection, replaced, now_ms)
