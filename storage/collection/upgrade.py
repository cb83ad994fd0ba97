"""Schemas before 18, brought up by the engine without showing it the big tables.

The engine gets a small collection with everything but notes, cards and reviews, which are the same
in all versions; it would keep tens of megabytes of the big ones in memory, and run what a stranger
put into the file. Of the cards it only needs to know which decks have some: it resets the ease of
cards whose deck options hold the lowest one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from storage.collection.ddl import BIG_TABLES, tables
from storage.collection.hostile import Deadline, open_hostile
from storage.collection.rebuild import copy_table, create
from storage.errors import InvalidDatabase
from storage.lazy import LazyModule

_anki: Any = LazyModule("anki._backend")
_errors: Any = LazyModule("anki.errors")
_LOWEST_EASE = 1300
_RESET_EASE = 2500


@contextmanager
def upgraded_small_tables(
    source: apsw.Connection, version: int, path: Path, deadline: Deadline
) -> Iterator[tuple[apsw.Connection, list[int]]]:
    """A schema 18 collection with the small tables of `source`, made at `path`.

    And the decks whose cards' eases are to be reset. Raises: InvalidDatabase.
    """
    with create(path, version, deadline) as target:
        for table in tables(version):
            if table.name not in BIG_TABLES:
                copy_table(source, target, table)
        target.executemany(
            "INSERT INTO cards VALUES (NULL, 1, ?, 0, 0, 0, 0, 0, 0, 0, ?, 0, 0, 0, 0, 0, 0, '')",
            ((deck, _LOWEST_EASE) for deck in _decks_of_cards(source)),
        )
    backend = _anki.RustBackend(langs=["en"], server=True)
    try:
        backend.open_collection(collection_path=str(path), media_folder_path="", media_db_path="")
        backend.close_collection(downgrade_to_schema11=False)
    except _errors.AnkiException as exc:
        raise InvalidDatabase(f"schema {version} cannot be upgraded: {exc}") from exc
    with open_hostile(path, deadline) as upgraded:
        reset: Any = upgraded.execute("SELECT did FROM cards WHERE factor = ?", (_RESET_EASE,)).fetchall()
        yield upgraded, [deck for (deck,) in reset]


def reset_eases(target: apsw.Connection, decks: list[int], usn: int) -> None:
    """What the engine would have done to the cards of these decks."""
    target.executemany(
        "UPDATE cards SET factor = ?1, usn = ?2 "
        "WHERE factor != 0 AND factor <= 2000 AND (did = ?3 OR odid = ?3)",
        ((_RESET_EASE, usn, deck) for deck in decks),
    )


def _decks_of_cards(source: apsw.Connection) -> set[int]:
    rows: Any = source.execute("SELECT did, odid FROM cards NOT INDEXED")
    return {deck for row in rows for deck in row}
