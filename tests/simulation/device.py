"""A client as the server sees it: rows, changes made on the device, and the requests of its syncs.

It follows the official client (rslib/src/sync/collection/normal.rs): whatever a sync brings or gives is kept
only if `finish` is answered; otherwise the device is as it was before the sync, and sends everything again.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw
import msgspec

from storage.collection.engine.codec import Codec
from storage.collection.records import Graves
from storage.collection.schema import configure
from storage.collection.unbury import unburied
from storage.collection.unseen import Unseen

PENDING = -1
BATCH_ROWS = 4
"""Rows of one `applyChunk`, and ids of one `applyGraves`."""
CARD_MOD, CARD_USN, NOTE_MOD, NOTE_USN, REVLOG_USN = 4, 5, 3, 4, 2

Call = Callable[[str, Any], Any]
"""Sends a message; the decoded answer. Raises Broken."""


class Broken(Exception):
    """A request was not answered, or was refused: the sync is over for the client."""


@dataclass
class Rows:
    """A device's collection. Rows are tuples and objects are never changed in place, so copies are cheap."""

    usn: int = 0
    mod: int = 0
    scm: int = 0
    crt: int = 0
    cards: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    notes: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    revlog: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    decks: dict[int, dict[str, Any]] = field(default_factory=dict)
    models: dict[int, dict[str, Any]] = field(default_factory=dict)
    options: dict[int, dict[str, Any]] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    conf: dict[str, Any] = field(default_factory=dict)
    graves: frozenset[tuple[str, int]] = frozenset()
    """What was deleted here and not sent yet: table and id."""

    def copy(self) -> Rows:
        return Rows(**{name: copy.copy(value) for name, value in vars(self).items()})

    def is_pending(self) -> bool:
        return bool(
            self.graves
            or any(row[CARD_USN] == PENDING for row in self.cards.values())
            or any(row[NOTE_USN] == PENDING for row in self.notes.values())
            or any(row[REVLOG_USN] == PENDING for row in self.revlog.values())
            or any(deck["usn"] == PENDING for deck in self.decks.values())
            or PENDING in self.tags.values()
        )

    def counts(self) -> list[Any]:
        parts = (self.cards, self.notes, self.revlog, (), self.models, self.decks, self.options)
        return [[0, 0, 0], *map(len, parts)]

    def contents(self) -> dict[str, Any]:
        """What all devices of a user must agree on in the end."""
        cards = {id_: unburied(row) for id_, row in self.cards.items()}
        return {
            "cards": {id_: (*row[:CARD_USN], *row[CARD_USN + 1 :]) for id_, row in cards.items()},
            "notes": {id_: (*row[:NOTE_USN], *row[NOTE_USN + 1 : 7]) for id_, row in self.notes.items()},
            "revlog": {id_: (row[1], *row[3:]) for id_, row in self.revlog.items()},
            "decks": {id_: deck | {"usn": 0} for id_, deck in self.decks.items()},
            "models": {id_: model | {"usn": 0} for id_, model in self.models.items()},
            "tags": set(self.tags),
            "conf": {key: value for key, value in self.conf.items() if key != "lastUnburied"},
        }


def open_bytes(content: bytes) -> apsw.Connection:
    """A collection file in memory."""
    connection = apsw.Connection(":memory:")
    # A file in WAL mode (2, 2) cannot be opened in memory.
    connection.deserialize("main", content[:18] + b"\1\1" + content[20:])
    configure(connection)
    return connection


def read_file(content: bytes, codec: Codec) -> Rows:
    """A downloaded collection."""
    connection = open_bytes(content)
    try:
        return read_rows(connection, codec)
    finally:
        connection.close()


def read_rows(connection: apsw.Connection, codec: Codec) -> Rows:
    mod, scm, usn, crt = connection.execute("SELECT mod, scm, usn, crt FROM col").get
    unseen = Unseen(connection, codec, 0, Graves(), mod // 1000)
    changes = unseen.changes(with_config=True)
    notes = "SELECT id, guid, mid, mod, usn, tags, flds, '', '', flags, data FROM notes"
    return Rows(
        usn, mod, scm, crt,
        {row[0]: row for row in connection.execute("SELECT * FROM cards")},
        {row[0]: row for row in connection.execute(notes)},
        {row[0]: row for row in connection.execute("SELECT * FROM revlog")},
        {deck["id"]: deck for deck in changes.decks},
        {model["id"]: model for model in changes.models},
        {options["id"]: options for options in changes.configs},
        dict(connection.execute("SELECT tag, usn FROM tags")),
        changes.conf or {},
    )  # fmt: skip


def write_file(rows: Rows, template: bytes, codec: Codec) -> bytes:
    """The file that a device uploads. `template` has its notetypes and deck options."""
    connection = open_bytes(template)
    try:
        with connection:
            for table in ("cards", "notes", "revlog", "decks", "tags", "config", "graves"):
                connection.execute(f"DELETE FROM {table}")
            state = (rows.usn, rows.mod, rows.scm, rows.crt, rows.mod)
            connection.execute("UPDATE col SET usn = ?, mod = ?, scm = ?, crt = ?, ls = ?", state)
            _insert(connection, "cards", rows.cards.values())
            notes = [(*row[:7], row[6].split("\x1f")[0], 0, *row[9:]) for row in rows.notes.values()]
            _insert(connection, "notes", notes)
            _insert(connection, "revlog", rows.revlog.values())
            _insert(connection, "decks", codec.deck_rows(rows.decks.values()))
            _insert(connection, "tags", [(tag, usn, False, None) for tag, usn in rows.tags.items()])
            values = [(key, 0, 0, msgspec.json.encode(value)) for key, value in rows.conf.items()]
            _insert(connection, "config", values)
        connection.execute("VACUUM")
        return connection.serialize("main")
    finally:
        connection.close()


def _insert(connection: apsw.Connection, table: str, rows: Any) -> None:
    rows = list(rows)
    if rows:
        places = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {table} VALUES ({places})", rows)


class Device:
    """One device of a user. `clock_ms` is its own clock, which may be wrong."""

    def __init__(self, index: int, chance: random.Random, clock_ms: Callable[[], int], rows: Rows) -> None:
        self.index, self.chance, self.clock_ms, self.rows = index, chance, clock_ms, rows
        self.may_be_late = True
        """Sends a message after the sanity check now and then, which the protocol does not forbid."""
        self._last_s = self._made = 0

    def _now_s(self) -> int:
        """A time that no other device gives and this one has not given: equal times are no contest."""
        now_s = max(self.clock_ms() // 1000, self._last_s + 1)
        self._last_s = now_s - now_s % 8 + self.index + (8 if now_s % 8 > self.index else 0)
        return self._last_s

    def _new_id(self) -> int:
        self._made += 1
        return 1_600_000_000_000 + self.index * 1_000_000 + self._made

    def use(self, *, may_change_schema: bool = True) -> None:
        """Some changes, as their user makes them."""
        for _ in range(self.chance.randrange(5)):
            rows, action = self.rows, self.chance.random()
            if action < 0.25 or not rows.cards:
                self._add_note()
            elif action < 0.55:
                self._review(self.chance.choice(sorted(rows.cards)))
            elif action < 0.65:
                self._edit_note(self.chance.choice(sorted(rows.notes)))
            elif action < 0.75:
                self._delete_note(self.chance.choice(sorted(rows.notes)))
            elif action < 0.95:
                self.chance.choice((self._bury, self._change_decks, self._add_tag, self._configure))()
            elif may_change_schema and self.chance.random() < 0.3:
                rows.scm = self._now_s() * 1000
            rows.mod = self._now_s() * 1000 + self.index

    def _add_note(self) -> None:
        rows, id_ = self.rows, self._new_id()
        model, now_s = min(rows.models), self._now_s()
        text = f"front {id_}\x1f{'back ' * self.chance.randrange(40)}"
        rows.notes[id_] = (id_, f"guid{id_}", model, now_s, PENDING, "", text, "", "", 0, "")
        deck = self.chance.choice(sorted(rows.decks))
        rows.cards[id_] = (id_, id_, deck, 0, now_s, PENDING, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, "{}")

    def _review(self, id_: int) -> None:
        card, now_s = self.rows.cards[id_], self._now_s()
        after = (2, 2, card[8] + 1, 10, 2500, card[11] + 1)
        self.rows.cards[id_] = (*card[:4], now_s, PENDING, *after, *card[12:])
        review = (now_s * 1000 + self.index, id_, PENDING, 3, 10, 1, 2500, 4000, 1)
        self.rows.revlog[review[0]] = review

    def _bury(self) -> None:
        card = self.rows.cards[self.chance.choice(sorted(self.rows.cards))]
        self.rows.cards[card[0]] = (*card[:4], self._now_s(), PENDING, card[6], -2, *card[8:])

    def _edit_note(self, id_: int) -> None:
        note = self.rows.notes[id_]
        tag = self.chance.choice(["", *sorted(self.rows.tags)])
        text = f"edited {self._now_s()}\x1f{note[6][-50:]}".replace("\x1f", " ", 0)
        fields = text.split("\x1f")
        self.rows.notes[id_] = (
            *note[:3], self._last_s, PENDING, f" {tag} " if tag else "", "\x1f".join(fields[:2]), *note[7:],
        )  # fmt: skip

    def _delete_note(self, id_: int) -> None:
        rows = self.rows
        gone = [card for card in rows.cards.values() if card[1] == id_]
        del rows.notes[id_]
        for card in gone:
            del rows.cards[card[0]]
        rows.graves |= {("notes", id_), *(("cards", card[0]) for card in gone)}

    def _change_decks(self) -> None:
        rows = self.rows
        choice = self.chance.choice(sorted(rows.decks))
        if choice != 1 and self.chance.random() < 0.3:
            del rows.decks[choice]
            rows.graves |= {("decks", choice)}
            return
        id_ = self._new_id() if choice == 1 or self.chance.random() < 0.5 else choice
        # Of two versions of a deck the later one wins on both sides: an edit by a clock that is behind would
        # stay on its device alone, with the official server too.
        self._last_s = max(self._last_s, rows.decks[choice]["mod"])
        now_s = self._now_s()
        rows.decks[id_] = rows.decks[choice] | {
            "id": id_, "name": f"deck {id_} {now_s}", "mod": now_s, "usn": PENDING,
        }  # fmt: skip

    def _add_tag(self) -> None:
        self.rows.tags.setdefault(f"tag{self.index}-{self._now_s()}", PENDING)

    def _configure(self) -> None:
        self.rows.conf = self.rows.conf | {f"key{self.chance.randrange(4)}": self._now_s()}

    def before_upload(self) -> None:
        """Everything counts as sent, and the schema as changed: other devices must download."""
        rows = self.rows
        rows.graves = frozenset()
        rows.cards = {id_: (*row[:CARD_USN], 0, *row[CARD_USN + 1 :]) for id_, row in rows.cards.items()}
        rows.notes = {id_: (*row[:NOTE_USN], 0, *row[NOTE_USN + 1 :]) for id_, row in rows.notes.items()}
        rows.revlog = {
            id_: (*row[:REVLOG_USN], 0, *row[REVLOG_USN + 1 :]) for id_, row in rows.revlog.items()
        }
        rows.decks = {id_: deck | {"usn": 0} for id_, deck in rows.decks.items()}
        rows.tags = dict.fromkeys(rows.tags, 0)
        rows.usn += 1
        rows.scm = rows.mod = self._now_s() * 1000 + self.index

    def sync(self, call: Call, remote: dict[str, Any]) -> None:
        """A normal sync, from `start` to `finish`. `remote` is the answer of `meta`. Raises: Broken."""
        rows, usn = self.rows.copy(), remote["usn"]
        is_newer = rows.mod > remote["mod"]
        deleted = sorted(rows.graves)
        as_before_23 = self.chance.random() < 0.2  # older clients send deletions with the start
        sent = {"graves": by_table(deleted)} if as_before_23 and deleted else {}
        theirs = call("start", {"minUsn": rows.usn, "lnewer": is_newer, **sent})
        for part in () if sent else batches(deleted):
            call("applyGraves", {"chunk": by_table(part)})
        for table, ids in theirs.items():
            for id_ in ids:
                getattr(rows, table).pop(id_, None)
        rows.graves = frozenset()
        self._exchange_changes(call, rows, usn, is_newer=is_newer)
        chunk = {"done": False}
        while not chunk["done"]:
            chunk = call("chunk", {})
            take_chunk(rows, chunk)
        for part in pending_chunks(rows, usn):
            call("applyChunk", {"chunk": part})
        answer = call("sanityCheck2", {"client": rows.counts()})
        assert answer["status"] == "ok", ("the counts differ", answer, self.index)
        if self.may_be_late and self.chance.random() < 0.1:
            tag = f"late{self.index}-{self._now_s()}"
            call("applyChanges", {"changes": {"models": [], "decks": [[], []], "tags": [tag]}})
            rows.tags[tag] = usn
        rows.mod = call("finish", {})
        rows.usn = usn + 1
        self.rows = rows

    def _exchange_changes(self, call: Call, rows: Rows, usn: int, *, is_newer: bool) -> None:
        decks = [deck | {"usn": usn} for deck in rows.decks.values() if deck["usn"] == PENDING]
        tags = sorted(tag for tag, tag_usn in rows.tags.items() if tag_usn == PENDING)
        rows.decks |= {deck["id"]: deck for deck in decks}
        rows.tags |= dict.fromkeys(tags, usn)
        changes: dict[str, Any] = {"models": [], "decks": [decks, []], "tags": tags}
        if is_newer:
            changes |= {"conf": rows.conf, "crt": rows.crt}
        theirs = call("applyChanges", {"changes": changes})
        their_decks, their_options = theirs["decks"]
        for known, found in (
            (rows.models, theirs["models"]),
            (rows.decks, their_decks),
            (rows.options, their_options),
        ):
            for thing in found:
                if thing["id"] not in known or known[thing["id"]]["mod"] < thing["mod"]:
                    known[thing["id"]] = thing
        for tag in theirs["tags"]:
            rows.tags.setdefault(tag, usn)
        rows.conf, rows.crt = theirs.get("conf", rows.conf), theirs.get("crt", rows.crt)


def take_chunk(rows: Rows, chunk: dict[str, Any]) -> None:
    """Rows of the server: those that the device has changed too stay unless the server's are newer."""
    for row in chunk.get("revlog", ()):
        rows.revlog.setdefault(row[0], tuple(row))
    for known, name, mod, usn in (
        (rows.cards, "cards", CARD_MOD, CARD_USN),
        (rows.notes, "notes", NOTE_MOD, NOTE_USN),
    ):
        for row in chunk.get(name, ()):
            ours = known.get(row[0])
            if ours is None or ours[usn] != PENDING or ours[mod] < row[mod]:
                known[row[0]] = tuple(row)


def pending_chunks(rows: Rows, usn: int) -> Iterator[dict[str, Any]]:
    """What was changed on the device, as if it had come with this USN."""
    pending = []
    for known, name, at in (
        (rows.revlog, "revlog", REVLOG_USN),
        (rows.cards, "cards", CARD_USN),
        (rows.notes, "notes", NOTE_USN),
    ):
        for id_, row in list(known.items()):
            if row[at] == PENDING:
                known[id_] = (*row[:at], usn, *row[at + 1 :])
                pending.append((name, known[id_]))
    parts = list(batches(pending)) or [[]]
    for part in parts:
        chunk: dict[str, Any] = {"done": part is parts[-1]}
        for name, row in part:
            chunk.setdefault(name, []).append(row)
        yield chunk


def by_table(deleted: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    return {name: [id_ for table, id_ in deleted if table == name] for name in ("cards", "decks", "notes")}


def batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for at in range(0, len(items), BATCH_ROWS):
        yield items[at : at + BATCH_ROWS]
