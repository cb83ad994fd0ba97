"""Collections and wire objects to begin a walk with, made once by the engine, always the same."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anki.collection import Collection

# all before the walks' own stamps, which lie at 1.7e9 and later
EPOCH = 1_600_000_000
NOTETYPE = EPOCH * 1000 + 100
FIELDS = 2


@dataclass(frozen=True)
class Templates:
    """Schema 11 objects as clients send them."""

    deck: dict[str, Any]
    filtered: dict[str, Any]
    options: dict[str, Any]
    notetype: dict[str, Any]
    config: dict[str, Any]


def connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.create_collation("unicase", lambda a, b: (a.casefold() > b.casefold()) - (a.casefold() < b.casefold()))
    return db


def make_templates(folder: Path) -> Templates:
    col = Collection(str(folder / "templates.anki2"))
    filtered = col.decks.get(col.decks.new_filtered("Filtered"))
    deck, options = col.decks.get(1), col.decks.get_config(1)  # type: ignore[arg-type]
    notetype = col.models.by_name("Basic")
    config = json.loads(col._backend.get_all_config())
    col.close()
    assert deck and filtered and options and notetype
    return Templates(deck, filtered, options, notetype, config)


def make_collection(path: Path, notes: int) -> bytes:
    """A collection of so many notes, each with a card and a review; never the time of today in it."""
    col = Collection(str(path))
    keep = col.models.by_name("Basic")
    assert keep
    for other in col.models.all_names_and_ids():
        if other.id != keep["id"]:
            col.models.remove(other.id)  # type: ignore[arg-type]
    col.close()
    with contextlib.closing(connect(path)) as db:
        _redate(db, keep["id"])
        _fill(db, notes)
        db.execute("pragma wal_checkpoint(truncate)")
        db.execute("pragma journal_mode=delete")
    return path.read_bytes()


def _redate(db: sqlite3.Connection, notetype: int) -> None:
    db.execute("update notetypes set id=?, mtime_secs=?, usn=0", [NOTETYPE, EPOCH])
    db.execute("update fields set ntid=? where ntid=?", [NOTETYPE, notetype])
    db.execute("update templates set ntid=?, mtime_secs=?, usn=0", [NOTETYPE, EPOCH])
    db.execute("update config set mtime_secs=?, usn=0", [EPOCH])
    db.execute("update config set val=? where key='curModel'", [str(NOTETYPE).encode()])
    db.execute("update config set val='10000' where key='lastUnburied'")
    for table in ("decks", "deck_config"):
        db.execute(f"update {table} set mtime_secs=?, usn=0", [EPOCH])
    db.execute("delete from graves")
    stamp = EPOCH * 1000
    db.execute("update col set crt=?, mod=?, scm=?, ls=?, usn=0", [EPOCH, stamp, stamp, stamp])


def _fill(db: sqlite3.Connection, notes: int) -> None:
    for i in range(notes):
        note = EPOCH * 1000 + 1000 + i
        row = [
            note,
            f"guid{i}",
            NOTETYPE,
            EPOCH + i,
            i % 3,
            " base ",
            f"front {i}\x1fback",
            f"front {i}",
            7,
            0,
            "",
        ]
        db.execute(f"insert into notes values ({','.join('?' * 11)})", row)
        card = [note, note, 1, 0, EPOCH + i, i % 3, 0, 0, i, *([0] * 8), ""]
        db.execute(f"insert into cards values ({','.join('?' * 18)})", card)
        db.execute("insert into revlog values (?,?,?,3,10,5,2500,4000,1)", [note, note, i % 3])
    if notes:
        db.execute("insert into tags values ('base', 0, 0, null)")
