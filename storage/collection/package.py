"""A collection as the package (.colpkg) that Anki writes as a backup and imports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.errors import Corrupt
from storage.lazy import LazyModule

_anki: Any = LazyModule("anki._backend")
_errors: Any = LazyModule("anki.errors")


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
