"""Converts a copy of a collection to schema 11, with the official engine, for old clients that download it.

Called by `app.sync.transfer`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

from storage.errors import Corrupt
from storage.lazy import LazyModule

_anki: Any = LazyModule("anki._backend")
_errors: Any = LazyModule("anki.errors")
_SCHEMA = 11


def downgrade(path: Path) -> None:
    """Convert the collection at `path` to schema 11 in place; leaves no WAL. Raises: Corrupt."""
    backend = _anki.RustBackend(langs=["en"], server=True)
    try:
        backend.open_collection(collection_path=str(path), media_folder_path="", media_db_path="")
        backend.close_collection(downgrade_to_schema11=True)
    except _errors.AnkiException as exc:
        raise Corrupt(str(path), "a collection that the engine can downgrade", str(exc)) from exc
    found = _schema_version(path)
    if found != _SCHEMA:  # `close_collection` logs its errors, and does not raise them
        raise Corrupt(str(path), _SCHEMA, found)


def _schema_version(path: Path) -> int:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        version: int = connection.execute("SELECT ver FROM col").get
        return version
    finally:
        connection.close()
