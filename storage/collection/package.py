"""A collection as the package (.colpkg) that Anki writes as a backup and imports, without media."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.errors import Corrupt
from storage.lazy import LazyModule

_anki: Any = LazyModule("anki._backend")
_errors: Any = LazyModule("anki.errors")


def write_package(collection: Path, into: Path) -> None:
    """Pack a throw-away copy of a collection, which the engine opens. Raises: Corrupt."""
    backend = _anki.RustBackend(langs=["en"], server=False)
    media = collection.with_name(collection.name + ".media")
    media.mkdir()
    try:
        backend.open_collection(
            collection_path=str(collection), media_folder_path=str(media), media_db_path=f"{media}.db"
        )
        backend.export_collection_package(out_path=str(into), include_media=False, legacy=False)
    except _errors.AnkiException as exc:
        raise Corrupt(str(collection), "a collection that the engine can pack", str(exc)) from exc
