"""An empty collection of the official engine in memory, which converts one object per call. Used by `codec`.

Each call deletes its rows at the end. After an exception the rows may still be there: drop the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from storage.lazy import LazyModule

_anki: Any = LazyModule("anki._backend")  # a private module: `anki.collection` needs a folder on disk
_card_rendering: Any = LazyModule("anki.card_rendering_pb2")

_UNIQUE_NAMES = ("idx_decks_name", "idx_notetypes_name", "idx_fields_name_ntid", "idx_templates_name_ntid")
"""Indexes that are dropped here: names must be unique in the user's collection, not in this one."""


class Engine:
    """One engine; not thread-safe."""

    def __init__(self) -> None:
        self._backend = _anki.RustBackend(langs=["en"], server=True)
        self._backend.open_collection(collection_path=":memory:", media_folder_path="", media_db_path="")
        # Start without the default deck, options and notetypes of a new collection.
        for index in _UNIQUE_NAMES:
            self._run(f"DROP INDEX {index}")
        # A new collection has a default deck, options and notetypes.
        for table in ("decks", "deck_config"):
            self._run(f"DELETE FROM {table}")  # noqa: S608 - our names
        self._wipe_notetypes()

    def deck_row(self, deck: bytes) -> Sequence[Any]:
        """(id, name, common, kind) of a deck's JSON; blobs as hex."""
        self._backend.add_or_update_deck_legacy(deck=deck, preserve_usn_and_mtime=True)
        row = self._row("SELECT id, name, hex(common), hex(kind) FROM decks")
        self._run("DELETE FROM decks")
        return row

    def deck_jsons(self, rows: Iterable[Sequence[Any]]) -> list[bytes]:
        """JSON of each (id, name, mtime_secs, usn, common, kind); blobs as hex."""
        rows = list(rows)
        self._run_many("INSERT INTO decks VALUES (?, ?, ?, ?, unhex(?), unhex(?))", rows)
        jsons = [self._backend.get_deck_legacy(row[0]) for row in rows]
        self._run("DELETE FROM decks")
        return jsons

    def deck_config_row(self, config: bytes) -> Sequence[Any]:
        """(id, name, config) of deck options' JSON; blobs as hex."""
        self._backend.add_or_update_deck_config_legacy(config)
        row = self._row("SELECT id, name, hex(config) FROM deck_config")
        self._run("DELETE FROM deck_config")
        return row

    def deck_config_jsons(self, rows: Iterable[Sequence[Any]]) -> list[bytes]:
        """JSON of each (id, name, mtime_secs, usn, config); blobs as hex."""
        rows = list(rows)
        self._run_many("INSERT INTO deck_config VALUES (?, ?, ?, ?, unhex(?))", rows)
        jsons = [self._backend.get_deck_config_legacy(row[0]) for row in rows]
        self._run("DELETE FROM deck_config")
        return jsons

    def notetype_rows(self, notetype: bytes) -> tuple[Sequence[Any], list[str], list[str]]:
        """(id, mtime_secs, usn, config) of a notetype's JSON and the configs of its parts, as hex."""
        self._backend.add_or_update_notetype(json=notetype, preserve_usn_and_mtime=True, skip_checks=True)
        core = self._row("SELECT id, mtime_secs, usn, hex(config) FROM notetypes")
        fields = self._column("SELECT hex(config) FROM fields ORDER BY ord")
        templates = self._column("SELECT hex(config) FROM templates ORDER BY ord")
        self._wipe_notetypes()
        return core, fields, templates

    def notetype_jsons(
        self,
        rows: Iterable[Sequence[Any]],
        fields: Iterable[Sequence[Any]],
        templates: Iterable[Sequence[Any]],
    ) -> list[bytes]:
        """JSON of each (id, name, mtime_secs, usn, config).

        `fields` and `templates` are (ntid, ord, name, config) of all of them; blobs as hex.
        """
        rows = list(rows)
        self._run_many("INSERT INTO notetypes VALUES (?, ?, ?, ?, unhex(?))", rows)
        self._run_many("INSERT INTO fields VALUES (?, ?, ?, unhex(?))", fields)
        self._run_many("INSERT INTO templates VALUES (?, ?, ?, 0, 0, unhex(?))", templates)
        jsons = [self._backend.get_notetype_legacy(row[0]) for row in rows]
        self._wipe_notetypes()
        return jsons

    def strip_html(self, text: str) -> str:
        """The text as sort fields and checksums use it: without tags, but with the names of media files."""
        mode = _card_rendering.StripHtmlRequest.PRESERVE_MEDIA_FILENAMES
        stripped: str = self._backend.strip_html(text=text, mode=mode)
        return stripped

    def _wipe_notetypes(self) -> None:
        for table in ("notetypes", "fields", "templates"):
            self._run(f"DELETE FROM {table}")  # noqa: S608 - our names

    def _run(self, sql: str) -> None:
        self._backend.db_query(sql, [], first_row_only=False)

    def _run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._backend.db_execute_many(sql, [list(row) for row in rows])

    def _row(self, sql: str) -> Sequence[Any]:
        row: Sequence[Any] = self._backend.db_query(sql, [], first_row_only=True)[0]
        return row

    def _column(self, sql: str) -> list[str]:
        return [row[0] for row in self._backend.db_query(sql, [], first_row_only=False)]
