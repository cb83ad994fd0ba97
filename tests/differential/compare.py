"""When two answers, and two collections, count as the same."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from anki import deck_config_pb2, decks_pb2, notetypes_pb2
from google.protobuf.json_format import MessageToDict

from tests.differential.samples import connect
from tests.support.wire import Answer, read_zip

NEAR_S = 900
MOST = 10**13  # no stamp and no value of a walk is larger; ids of fields and templates are drawn from 64 bits
TABLES = (
    "col",
    "notes",
    "cards",
    "revlog",
    "graves",
    "notetypes",
    "fields",
    "templates",
    "decks",
    "deck_config",
    "config",
    "tags",
)
BLOBS = {
    ("notetypes", "config"): notetypes_pb2.Notetype.Config,
    ("fields", "config"): notetypes_pb2.Notetype.Field.Config,
    ("templates", "config"): notetypes_pb2.Notetype.Template.Config,
    ("decks", "common"): decks_pb2.Deck.Common,
    ("decks", "kind"): decks_pb2.Deck.KindContainer,
    ("deck_config", "config"): deck_config_pb2.DeckConfig.Config,
}


class Clock:
    """Replaces what a server takes from the clock or from chance.

    The walks' own stamps lie years back, so whatever is near the present is the server's. Of these,
    only whether it is the time of the last finished sync says anything: clients live on that.
    """

    def __init__(self) -> None:
        self.finished = 0

    def heed(self, method: str, answer: Answer) -> None:
        """Note what changes the collection's time of modification."""
        if method == "finish":
            self.finished = answer.json

    def normal(self, value: Any) -> Any:
        if isinstance(value, dict):
            if value.keys() & {"sticky", "qfmt"} and value.get("id") is not None:
                value = value | {"id": "random"}  # of a field or a template: one in many draws is small
            pairs = ((self.normal(k), self.normal(v)) for k, v in value.items())
            ordered = sorted(pairs, key=repr)
            # keys that are times fall together
            return dict(ordered) if len(dict(ordered)) == len(ordered) else [list(pair) for pair in ordered]
        if isinstance(value, (list, tuple)):
            return [self.normal(item) for item in value]
        if isinstance(value, int) and not isinstance(value, bool):
            return self.number(value)
        if isinstance(value, str) and value.lstrip("-").isdecimal():
            return str(self.number(int(value)))
        return value

    def number(self, value: int) -> int | str:
        now = time.time()
        if abs(value) > MOST:
            return "random"
        if abs(value - now) < NEAR_S:
            return "now"
        if abs(value / 1000 - now) < NEAR_S:
            return "last finish" if value == self.finished else "moment"
        return value


def portrait(method: str, answer: Answer, clock: Clock) -> Any:
    """What must be equal of an answer: the status, and the decoded body of a good one."""
    if answer.status != 200:
        return answer.status
    clock.heed(method, answer)
    if method == "download":
        return [200, rows(answer.body, clock)]
    if method == "downloadFiles":
        return [200, list(read_zip(answer.body).items())]
    if method in {"upload", "health"}:
        return [200, answer.body.decode()]
    found = answer.json
    if method == "hostKey":
        return [200, sorted(found)]
    if method == "begin":
        # the key it repeats is the server's own
        assert isinstance(found["data"].pop("sk"), str)
    if method == "meta":
        _forgive_meta(found)
    return [200, clock.normal(unordered(method, found))]


def _forgive_meta(found: dict[str, Any]) -> None:
    if found["mod"] == 0:
        # ours makes a collection only when there is something to keep
        found["scm"] = "never used"


def unordered(method: str, found: Any) -> Any:
    """Lists whose order means nothing to a client are sorted."""
    if method in {"start", "chunk"}:
        return {k: sorted(v) if isinstance(v, list) else v for k, v in found.items()}
    if method == "applyChanges":
        found["models"].sort(key=lambda thing: thing["id"])
        for part in found["decks"]:
            part.sort(key=lambda thing: thing["id"])
        found["tags"].sort()
    return found


def rows(collection: bytes, clock: Clock) -> dict[str, list[list[Any]]]:
    """All rows of all tables, in order, with blobs as what they mean."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "collection.anki2"
        # the header asks for a write-ahead log, which a file of its own has no use for
        path.write_bytes(collection[:18] + b"\x01\x01" + collection[20:])
        with contextlib.closing(connect(path)) as db:
            names = [row[0] for row in db.execute("select name from sqlite_master where type='table'")]
            kept = [name for name in names if not name.startswith("sqlite_")]
            out: dict[str, list[list[Any]]] = {}
            for table in sorted(kept, key=lambda name: (name not in TABLES, name)):
                cursor = db.execute(f"select * from {table}")
                columns = [column[0].lower() for column in cursor.description]
                plain = [
                    [meaning(table, column, cell) for column, cell in zip(columns, row, strict=True)]
                    for row in cursor
                ]
                out[table] = sorted((clock.normal(row) for row in plain), key=repr)
            objects = db.execute(
                "select type, name, tbl_name from sqlite_master where name not like 'sqlite_stat%'"
            )
            out["schema"] = sorted([list(row) for row in objects], key=repr)
    return out


def meaning(table: str, column: str, cell: Any) -> Any:
    if table == "config" and column == "val":
        return json.loads(cell)
    if table == "col" and isinstance(cell, str):
        return json.loads(cell) if cell else cell
    message = BLOBS.get((table, column))
    if message is None:
        return cell.hex() if isinstance(cell, bytes) else cell
    return _unpack(message.FromString(cell))


def _unpack(message: Any) -> Any:
    """A protobuf message as a dict; JSON that it carries in a field of bytes as what it says."""
    out = MessageToDict(message, preserving_proto_field_name=True)
    if getattr(message, "other", b""):
        out["other"] = json.loads(message.other)
    unknown = message.SerializeToString(deterministic=True)
    known = type(message).FromString(unknown)
    known.DiscardUnknownFields()
    out["unknown bytes"] = len(unknown) - len(known.SerializeToString(deterministic=True))
    return out


def first_difference(official: Any, ours: Any, path: str = "") -> str:
    """Where two portraits part, in a line."""
    if isinstance(official, dict) and isinstance(ours, dict):
        for key in [*official, *(k for k in ours if k not in official)]:
            if key not in official or key not in ours or official[key] != ours[key]:
                missing = "(absent)"
                return first_difference(official.get(key, missing), ours.get(key, missing), f"{path}/{key}")
    if isinstance(official, list) and isinstance(ours, list) and len(official) == len(ours):
        for index, (one, other) in enumerate(zip(official, ours, strict=True)):
            if one != other:
                return first_difference(one, other, f"{path}[{index}]")
    if isinstance(official, list) and isinstance(ours, list):
        return (
            f"{path}: only official: {[x for x in official if x not in ours][:5]!r}"
            f" only ours: {[x for x in ours if x not in official][:5]!r}"
        )
    return f"{path}: official {official!r:.600}, ours {ours!r:.600}"
