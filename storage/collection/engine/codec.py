"""Translates between the "schema 11" JSON of messages and the protobuf columns of schema 18.

Used for decks, deck options and notetypes. The official engine translates: one of its calls writes an
object into an empty collection in memory (`Engine`), another one reads it in the other form.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from storage.collection.engine import notetype_json
from storage.collection.engine.notetype_json import NotetypeRows
from storage.collection.engine.scratch import Engine
from storage.collection.errors import InvalidChange
from storage.errors import Corrupt, StorageError

_MOST_IDLE_ENGINES = 2
"""Engines kept for later calls; each takes about 10 MB."""

_HTML = frozenset("<&")

_encode = msgspec.json.encode
_decode = msgspec.json.decode


class DeckRow(NamedTuple):
    """A row of `decks`; the levels of the name are separated by 0x1f."""

    id: int
    name: str
    mtime_secs: int
    usn: int
    common: bytes
    kind: bytes


class DeckConfigRow(NamedTuple):
    """A row of `deck_config`."""

    id: int
    name: str
    mtime_secs: int
    usn: int
    config: bytes


class Codec:
    """A pool of engines; may be shared between threads.

    Each call takes an idle engine or makes one. One engine with a lock would not do: the lock would have
    to work between greenlets as well as between native threads.
    """

    def __init__(self) -> None:
        self._idle: deque[Engine] = deque()

    def deck_rows(self, decks: Iterable[dict[str, Any]]) -> list[DeckRow]:
        """Decks as rows. Raises: InvalidChange."""
        with self._engine(InvalidChange) as engine:
            return [_deck_row(engine, deck) for deck in decks]

    def deck_dicts(self, rows: Iterable[DeckRow]) -> list[dict[str, Any]]:
        """Rows as decks. Raises: Corrupt."""
        # Blobs are passed as hex: see `Engine`.
        hexed = [(*row[:4], row.common.hex(), row.kind.hex()) for row in rows]
        with self._engine(_corrupt) as engine:
            return [_decode(deck) for deck in engine.deck_jsons(hexed)]

    def deck_config_rows(self, configs: Iterable[dict[str, Any]]) -> list[DeckConfigRow]:
        """Deck options as rows. Raises: InvalidChange."""
        with self._engine(InvalidChange) as engine:
            return [_deck_config_row(engine, config) for config in configs]

    def deck_config_dicts(self, rows: Iterable[DeckConfigRow]) -> list[dict[str, Any]]:
        """Rows as deck options. Raises: Corrupt."""
        hexed = [(*row[:4], row.config.hex()) for row in rows]
        with self._engine(_corrupt) as engine:
            return [_decode(config) for config in engine.deck_config_jsons(hexed)]

    def notetype_rows(self, notetypes: Iterable[dict[str, Any]]) -> list[NotetypeRows]:
        """Notetypes as rows, with names and templates unchanged. Raises: InvalidChange."""
        with self._engine(InvalidChange) as engine:
            return [_notetype_rows(engine, notetype) for notetype in notetypes]

    def notetype_dicts(self, rows: Iterable[NotetypeRows]) -> list[dict[str, Any]]:
        """Rows as notetypes. Raises: Corrupt."""
        cores, fields, templates = [], [], []
        for row in rows:
            cores.append((*row[:4], row.config.hex()))
            fields += [(row.id, part.ord, part.name, part.config.hex()) for part in row.fields]
            templates += [(row.id, part.ord, part.name, part.config.hex()) for part in row.templates]
        with self._engine(_corrupt) as engine:
            return [_decode(notetype) for notetype in engine.notetype_jsons(cores, fields, templates)]

    def strip_html(self, texts: Iterable[str]) -> list[str]:
        """Texts without HTML, as sort fields and checksums use them."""
        texts = list(texts)
        # Plain texts, which most are, need no engine.
        if all(_HTML.isdisjoint(text) for text in texts):
            return texts
        with self._engine(InvalidChange) as engine:
            return [text if _HTML.isdisjoint(text) else engine.strip_html(text) for text in texts]

    @contextmanager
    def _engine(self, error: type[InvalidChange] | Any) -> Iterator[Engine]:
        """An engine for one call. An engine that raises or panics is dropped, with all rows in it."""
        try:
            # A deque is thread-safe, so no lock is needed.
            engine = self._idle.pop()
        except IndexError:
            engine = Engine()
        try:
            yield engine
        except (StorageError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as exc:  # the engine's panics are not subclasses of Exception
            raise error(f"{type(exc).__name__}: {exc}") from exc
        if len(self._idle) < _MOST_IDLE_ENGINES:
            self._idle.append(engine)


def _corrupt(found: str) -> Corrupt:
    return Corrupt("collection", "decodable columns", found)


def _deck_row(engine: Engine, deck: dict[str, Any]) -> DeckRow:
    row_id, name, common, kind = engine.deck_row(_encode(deck))
    # The engine changes these two if it normalises the name.
    mtime_secs, usn = int(deck.get("mod", 0)), deck["usn"]
    return DeckRow(row_id, name, mtime_secs, usn, bytes.fromhex(common), bytes.fromhex(kind))


def _deck_config_row(engine: Engine, config: dict[str, Any]) -> DeckConfigRow:
    if int(config["id"]) == 0:
        raise InvalidChange("deck options with id 0")
    row_id, name, encoded = engine.deck_config_row(_encode(config))
    # The engine sets the modification time of deck options to now.
    return DeckConfigRow(row_id, name, int(config["mod"]), config["usn"], bytes.fromhex(encoded))


def _notetype_rows(engine: Engine, notetype: dict[str, Any]) -> NotetypeRows:
    if int(notetype["id"]) == 0:
        raise InvalidChange("notetype with id 0")
    core, fields, templates = engine.notetype_rows(_encode(notetype_json.masked(notetype)))
    return notetype_json.unmasked(notetype, core, fields, templates)
