"""Upgrades schemas before 18 with the official engine, without giving it the big tables. Used by `admit`.

The engine gets a new file with all tables but notes, cards and reviews, which are the same in all
versions: it would keep tens of megabytes of them in memory, and run triggers of an untrusted file. The
upgrade also resets the ease of cards in decks whose options have the lowest ease. To find these decks, the
new file gets one card per deck with that ease; the decks whose card has another ease after the upgrade are
the ones, and `reset_eases` does the same to the real cards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from storage.collection.upload.ddl import BIG_TABLES, tables
from storage.collection.upload.rebuild import copy_table, create
from storage.collection.upload.untrusted import Deadline, open_hostile
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
    """(connection to a schema 18 collection at `path`, with the small tables of `source`; decks to reset).

    The second is for `reset_eases`. Raises: InvalidDatabase.
    """
    with create(path, version, deadline) as target:
        for table in tables(version):
            if table.name not in BIG_TABLES:
                copy_table(source, target, table)
        target.executemany(
            "INSERT INTO cards VALUES (NULL, 1, ?, 0, 0, 0, 0, 0, 0, 0, ?, 0, 0, 0, 0, 0, 0, '')",
            # One card per deck, with the lowest ease.
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
    """Reset the eases of cards in these decks as the engine's upgrade does."""
    target.executemany(
        "UPDATE cards SET factor = ?1, usn = ?2 "
        "WHERE factor != 0 AND factor <= 2000 AND (did = ?3 OR odid = ?3)",
        ((_RESET_EASE, usn, deck) for deck in decks),
    )


def _decks_of_cards(source: apsw.Connection) -> set[int]:
    rows: Any = source.execute("SELECT did, odid FROM cards NOT INDEXED")
    return {deck for row in rows for deck in row}
