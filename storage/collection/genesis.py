"""The first version of a collection: what the engine makes for a user who never synced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.lazy import LazyModule

_anki: Any = LazyModule("anki._backend")


def create_empty(path: Path) -> None:
    """Make an empty collection at schema 18, in WAL mode, with no WAL beside it."""
    backend = _anki.RustBackend(langs=["en"], server=True)
    backend.open_collection(collection_path=str(path), media_folder_path="", media_db_path="")
    backend.close_collection(downgrade_to_schema11=False)
