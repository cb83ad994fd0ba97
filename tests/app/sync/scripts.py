"""A collection to sync with, and the messages of a client that has changed some of it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import apsw
from anki.collection import Collection as Client

from storage.collection.engine.codec import Codec
from storage.collection.records import Graves
from storage.collection.schema import configure
from storage.collection.stamps import read_stamps
from storage.collection.unseen import Unseen

NOTES = 300
OLD_USN, RECENT_USN, USN = 1, 5, 6
"""Half of the rows are older than `CLIENT_USN`, half are new to the client."""
CLIENT_USN = 3
NOW_S = 1_800_000_000
TABLES = (
    "col",
    "cards",
    "notes",
    "revlog",
    "graves",
    "notetypes",
    "fields",
    "templates",
    "decks",
    "deck_config",
)
TABLES += ("config", "tags")

Request = tuple[str, Any]


class Base:
    """One collection file, and what of it a client needs to know to write messages."""

    def __init__(self, path: Path, codec: Codec) -> None:
        self.path, self.codec = path, codec
        _fill(path)
        connection = open_file(path)
        _stamp(connection)
        self.stamps = read_stamps(connection)
        changes = Unseen(connection, codec, 0, Graves(), NOW_S).changes(with_config=True)
        self.decks, self.options, self.config = changes.decks, changes.configs, changes.conf
        self.notetype = next(nt for nt in changes.models if nt["name"] == "Basic")
        self.cards = connection.execute("SELECT * FROM cards ORDER BY id").fetchall()
        self.notes = connection.execute("SELECT * FROM notes ORDER BY id").fetchall()
        connection.pragma("journal_mode", "wal")
        connection.close()

    def counts(self, **more: int) -> list[Any]:
        """What a client counts that has so many more of some."""
        names = ("cards", "notes", "revlog", "graves", "notetypes", "decks", "deck_config")
        return [[1, 2, 3], *(self.stamps[name] + more.get(name, 0) for name in names)]

    def new_note(self, number: int, usn: int = 0) -> tuple[list[Any], list[Any]]:
        """A note and its card, not in the base."""
        id_ = 1_900_000_000_000 + number
        note = [
            id_,
            f"new{number}",
            self.notetype["id"],
            NOW_S,
            usn,
            " new ",
            f"f{number}\x1fb",
            "",
            "",
            0,
            "",
        ]
        card = [id_, id_, 1, 0, NOW_S, usn, 0, 0, number, 0, 0, 0, 0, 0, 0, 0, 0, "{}"]
        return note, card

    def script(self, seed: int, client_usn: int = CLIENT_USN) -> list[Request]:
        """The requests of a whole sync up to the sanity check, which is right, by some client."""
        chance = random.Random(seed)
        gone = chance.sample(range(NOTES), 6)
        changed = [i for i in chance.sample(range(NOTES), 40) if i not in gone]
        fresh = chance.randrange(1, 8)
        is_newer = chance.random() < 0.5
        graves = {
            "cards": [self.cards[i][0] for i in gone],
            "notes": [self.notes[i][0] for i in gone],
            "decks": [],
        }
        cards = [
            [*self.cards[i][:4], NOW_S, USN, 2, 2, i, 10, 2500, 3, 1, *self.cards[i][13:]] for i in changed
        ]
        reviews = [[NOW_S * 1000 + i, self.cards[i][0], USN, 3, 10, 5, 2500, 4000, 1] for i in changed]
        added = [self.new_note(number, USN) for number in range(fresh)]
        rows = {
            "cards": cards + [card for _, card in added],
            "notes": [note for note, _ in added],
            "revlog": reviews,
        }
        deck = self.decks[0] | {"id": 1_900_000_000_777, "name": f"new deck {seed}", "mod": NOW_S, "usn": USN}
        changes = {"models": [], "decks": [[deck], []], "tags": ["new", f"seed{seed}"]}
        if is_newer:
            changes |= {"conf": self.config | {"seed": seed}, "crt": self.stamps["mod"] // 1000}
        split = chance.randrange(2)
        counts = self.counts(cards=fresh - 6, notes=fresh - 6, revlog=len(changed), decks=1)
        return [
            ("start", {"minUsn": client_usn, "lnewer": is_newer}),
            *(("applyGraves", {"chunk": part}) for part in _halves(graves, split)),
            ("applyChanges", {"changes": changes}),
            *(("chunk", {}) for _ in range(chance.randrange(1, 4))),
            *(("applyChunk", {"chunk": part}) for part in _halves(rows, split)),
            (
                "sanityCheck2",
                {"client": counts},
            ),
        ]


def _halves(lists: dict[str, list[Any]], split: int) -> list[dict[str, Any]]:
    if not split:
        return [lists]
    return [
        {key: rows[: len(rows) // 2] for key, rows in lists.items()},
        {key: rows[len(rows) // 2 :] for key, rows in lists.items()},
    ]


def body_of(message: Any) -> bytes:
    """A message as it is sent."""
    return json.dumps(message).encode()


def open_file(path: Path) -> apsw.Connection:
    """A connection with what Anki's schema needs."""
    connection = apsw.Connection(str(path))
    configure(connection)
    return connection


def dump(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables."""
    connection = open_file(path)
    try:
        return {
            table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
            for table in TABLES
        }
    finally:
        connection.close()


def _fill(path: Path) -> None:
    client = Client(str(path))
    notetype = client.models.by_name("Basic")
    for number in range(NOTES):
        note = client.new_note(notetype)
        note.fields[:2] = [f"front {number}", "back"]
        note.tags = ["odd" if number % 2 else "even"]
        client.add_note(note, client.decks.id(f"deck {number % 3}"))
    client.close()


def _stamp(connection: apsw.Connection) -> None:
    """As on a server: no row with USN -1."""
    for table in ("cards", "notes"):
        connection.execute(f"UPDATE {table} SET usn = iif(id % 2, {OLD_USN}, {RECENT_USN})")
    for table in ("decks", "deck_config", "notetypes", "tags", "config"):
        connection.execute(f"UPDATE {table} SET usn = {OLD_USN}")
    card = connection.execute("SELECT min(id) FROM cards").get
    rows = [(NOW_S * 1000 - n, card, RECENT_USN, 3, 1, 1, 2500, 1000, 1) for n in range(1, 41)]
    connection.executemany("INSERT INTO revlog VALUES (?,?,?,?,?,?,?,?,?)", rows)
    graves = [(123, 1, RECENT_USN), (124, 0, RECENT_USN), (125, 2, OLD_USN)]
    connection.executemany("INSERT INTO graves (oid, type, usn) VALUES (?,?,?)", graves)
    connection.execute(f"UPDATE col SET usn = {USN}")
