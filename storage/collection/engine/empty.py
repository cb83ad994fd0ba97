"""Makes the empty collection of a new user, with the official engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.lazy import LazyModule

_anki: Any = LazyModule("anki._backend")


def create_empty(path: Path) -> None:
    """Write an empty collection of schema 18, in WAL mode, without a -wal file."""
    backend = _anki.RustBackend(langs=["en"], server=True)
    backend.open_collection(collection_path=str(path), media_folder_path="", media_db_path="")
    backend.close_collection(downgrade_to_schema11=False)
