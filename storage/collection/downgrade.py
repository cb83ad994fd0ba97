"""Schema 11 for clients that know no later one: the engine's own downgrade, on a throw-away copy."""

from __future__ import annotations

from pathlib import Path

import apsw
from anki._backend import RustBackend
from anki.errors import AnkiException

from storage.errors import Corrupt

_SCHEMA = 11


def downgrade(path: Path) -> None:
    """Turn the collection at `path` into schema 11, in place, with no WAL left. Raises: Corrupt."""
    backend = RustBackend(langs=["en"], server=True)
    try:
        backend.open_collection(collection_path=str(path), media_folder_path="", media_db_path="")
        backend.close_collection(downgrade_to_schema11=True)
    except AnkiException as exc:
        raise Corrupt(str(path), "a collection that the engine can downgrade", str(exc)) from exc
    found = _schema_version(path)
    if found != _SCHEMA:  # closing logs its failures and keeps them to itself
        raise Corrupt(str(path), _SCHEMA, found)


def _schema_version(path: Path) -> int:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        version: int = connection.execute("SELECT ver FROM col").get
        return version
    finally:
        connection.close()
