"""The tables and indexes of Anki's schema by version: CREATE statements, columns, and rules for values.

Used for the checks of uploads. Other tables, indexes, triggers and views of an uploaded file are not kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from storage.collection.rules import (
    CARD_DATA,
    MODIFIED,
    USN,
    Rule,
    blobs,
    cast_within,
    integers,
    low_byte_within,
    or_else,
    texts,
    unread,
    within,
)

LATEST = 18
OPENABLE = frozenset({11, 14, 15, 16, 17, 18})
"""Schema versions that can be uploaded. 12 and 13 were never released; the engine rejects them, too."""

BIG_TABLES = ("notes", "cards", "revlog")
"""Tables that are the same in all versions. All others have a few MB at most in real collections."""

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_SPACE = re.compile(r"\s+")
_AROUND_PUNCTUATION = re.compile(r" ?([(),=]|!=) ?")


_U8 = (0, 2**8 - 1)
_U16 = (0, 2**16 - 1)
_U32 = (0, 2**32 - 1)
_I32 = (-(2**31), 2**31 - 1)


class Table(NamedTuple):
    """A table and its columns, in the order of the statement."""

    name: str
    sql: str
    columns: tuple[str, ...]
    rules: Mapping[str, Rule]
    """Column -> rule; the ranges are those of rows in messages, see `app.sync.messages`."""
    found_by: str = ""
    """The column by which the engine finds rows; rows without an integer in it are dropped."""
    ordered_by: str = ""
    """The text column that is the primary key, if there is one."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_COL = Table(
    "col",
    "CREATE TABLE col (id integer PRIMARY KEY, crt integer NOT NULL, mod integer NOT NULL, "
    "scm integer NOT NULL, ver integer NOT NULL, dty integer NOT NULL, usn integer NOT NULL, "
    "ls integer NOT NULL, conf text NOT NULL, models text NOT NULL, decks text NOT NULL, "
    "dconf text NOT NULL, tags text NOT NULL)",
    ("id", "crt", "mod", "scm", "ver", "dty", "usn", "ls", "conf", "models", "decks", "dconf", "tags"),
    {
        **integers("crt", "scm", "ver", "usn", "ls"),
        **MODIFIED,
        **unread("integer", "0", "dty"),
        **unread("text", "''", "conf", "models", "decks", "dconf", "tags"),
    },
)

_NOTES = Table(
    "notes",
    "CREATE TABLE notes (id integer PRIMARY KEY, guid text NOT NULL, mid integer NOT NULL, "
    "mod integer NOT NULL, usn integer NOT NULL, tags text NOT NULL, flds text NOT NULL, "
    # "integer" affinity: sort fields that are numbers sort as numbers
    "sfld integer NOT NULL, csum integer NOT NULL, flags integer NOT NULL, data text NOT NULL)",
    ("id", "guid", "mid", "mod", "usn", "tags", "flds", "sfld", "csum", "flags", "data"),
    {
        **integers("mid", "mod"),
        **USN,
        **texts("guid", "tags", "flds"),
        **or_else("0", "csum", "flags"),
        **or_else("''", "data"),
    },
)

_CARDS = Table(
    "cards",
    "CREATE TABLE cards (id integer PRIMARY KEY, nid integer NOT NULL, did integer NOT NULL, "
    "ord integer NOT NULL, mod integer NOT NULL, usn integer NOT NULL, type integer NOT NULL, "
    "queue integer NOT NULL, due integer NOT NULL, ivl integer NOT NULL, factor integer NOT NULL, "
    "reps integer NOT NULL, lapses integer NOT NULL, left integer NOT NULL, odue integer NOT NULL, "
    "odid integer NOT NULL, flags integer NOT NULL, data text NOT NULL)",
    _words("id nid did ord mod usn type queue due ivl factor reps lapses left odue odid flags data"),
    {
        **integers("nid", "did", "odid"),
        **USN,
        **low_byte_within(0, 3, "type"),
        **low_byte_within(-3, 4, "queue"),
        **within(*_U8, "flags"),
        **within(*_U16, "ord", "factor"),
        **within(*_U32, "reps", "lapses", "left"),
        **cast_within(*_U32, "ivl"),
        **or_else("0", "due", "odue"),
        **CARD_DATA,
    },
)

_REVLOG = Table(
    "revlog",
    "CREATE TABLE revlog (id integer PRIMARY KEY, cid integer NOT NULL, usn integer NOT NULL, "
    "ease integer NOT NULL, ivl integer NOT NULL, lastIvl integer NOT NULL, factor integer NOT NULL, "
    "time integer NOT NULL, type integer NOT NULL)",
    ("id", "cid", "usn", "ease", "ivl", "lastIvl", "factor", "time", "type"),
    {
        **integers("cid"),
        **USN,
        **within(*_U8, "ease"),
        **within(*_U32, "factor"),
        **cast_within(*_I32, "ivl", "lastIvl"),
        **or_else("0", "time", "type"),
    },
)

_GRAVES_11 = Table(
    "graves",
    "CREATE TABLE graves (usn integer NOT NULL, oid integer NOT NULL, type integer NOT NULL)",
    ("usn", "oid", "type"),
    {**integers("oid", "type"), **USN},
)

_GRAVES_18 = Table(
    "graves",
    "CREATE TABLE graves (oid integer NOT NULL, type integer NOT NULL, usn integer NOT NULL, "
    "PRIMARY KEY (oid, type)) WITHOUT ROWID",
    ("oid", "type", "usn"),
    {**integers("oid", "type"), **USN},
)

_DECK_CONFIG = Table(
    "deck_config",
    "CREATE TABLE deck_config (id integer PRIMARY KEY NOT NULL, name text NOT NULL COLLATE unicase, "
    "mtime_secs integer NOT NULL, usn integer NOT NULL, config blob NOT NULL)",
    ("id", "name", "mtime_secs", "usn", "config"),
    {**integers("mtime_secs"), **USN, **texts("name"), **blobs("config")},
)

_CONFIG = Table(
    "config",
    "CREATE TABLE config (KEY text NOT NULL PRIMARY KEY, usn integer NOT NULL, "
    "mtime_secs integer NOT NULL, val blob NOT NULL) WITHOUT ROWID",
    ("key", "usn", "mtime_secs", "val"),
    {**USN, **unread("integer", "0", "mtime_secs"), **texts("key"), **blobs("val")},
)

_TAGS_14 = Table(
    "tags",
    "CREATE TABLE tags (tag text NOT NULL PRIMARY KEY COLLATE unicase, usn integer NOT NULL) WITHOUT ROWID",
    ("tag", "usn"),
    {**USN, **texts("tag")},
    ordered_by="tag",
)

_TAGS_17 = Table(
    "tags",
    "CREATE TABLE tags (tag text NOT NULL PRIMARY KEY COLLATE unicase, usn integer NOT NULL, "
    "collapsed boolean NOT NULL, config blob NULL) WITHOUT ROWID",
    ("tag", "usn", "collapsed", "config"),
    {**USN, **integers("collapsed"), **texts("tag")},
    ordered_by="tag",
)

_FIELDS = Table(
    "fields",
    "CREATE TABLE fields (ntid integer NOT NULL, ord integer NOT NULL, name text NOT NULL COLLATE unicase, "
    "config blob NOT NULL, PRIMARY KEY (ntid, ord)) WITHOUT ROWID",
    ("ntid", "ord", "name", "config"),
    {**integers("ntid", "ord"), **texts("name"), **blobs("config")},
    found_by="ntid",
)

_TEMPLATES = Table(
    "templates",
    "CREATE TABLE templates (ntid integer NOT NULL, ord integer NOT NULL, "
    "name text NOT NULL COLLATE unicase, mtime_secs integer NOT NULL, usn integer NOT NULL, "
    "config blob NOT NULL, PRIMARY KEY (ntid, ord)) WITHOUT ROWID",
    ("ntid", "ord", "name", "mtime_secs", "usn", "config"),
    {**integers("ntid", "ord", "mtime_secs"), **USN, **texts("name"), **blobs("config")},
    found_by="ntid",
)

_NOTETYPES = Table(
    "notetypes",
    "CREATE TABLE notetypes (id integer NOT NULL PRIMARY KEY, name text NOT NULL COLLATE unicase, "
    "mtime_secs integer NOT NULL, usn integer NOT NULL, config blob NOT NULL)",
    ("id", "name", "mtime_secs", "usn", "config"),
    {**integers("mtime_secs"), **USN, **texts("name"), **blobs("config")},
)

_DECKS = Table(
    "decks",
    "CREATE TABLE decks (id integer PRIMARY KEY NOT NULL, name text NOT NULL COLLATE unicase, "
    "mtime_secs integer NOT NULL, usn integer NOT NULL, common blob NOT NULL, kind blob NOT NULL)",
    ("id", "name", "mtime_secs", "usn", "common", "kind"),
    {**integers("mtime_secs"), **USN, **texts("name"), **blobs("common", "kind")},
)

INDEXES = {
    "ix_notes_usn": "CREATE INDEX ix_notes_usn ON notes (usn)",
    "ix_cards_usn": "CREATE INDEX ix_cards_usn ON cards (usn)",
    "ix_revlog_usn": "CREATE INDEX ix_revlog_usn ON revlog (usn)",
    "ix_cards_nid": "CREATE INDEX ix_cards_nid ON cards (nid)",
    "ix_cards_sched": "CREATE INDEX ix_cards_sched ON cards (did, queue, due)",
    "ix_revlog_cid": "CREATE INDEX ix_revlog_cid ON revlog (cid)",
    "ix_notes_csum": "CREATE INDEX ix_notes_csum ON notes (csum)",
    "idx_fields_name_ntid": "CREATE UNIQUE INDEX idx_fields_name_ntid ON fields (name, ntid)",
    "idx_templates_name_ntid": "CREATE UNIQUE INDEX idx_templates_name_ntid ON templates (name, ntid)",
    "idx_templates_usn": "CREATE INDEX idx_templates_usn ON templates (usn)",
    "idx_notetypes_name": "CREATE UNIQUE INDEX idx_notetypes_name ON notetypes (name)",
    "idx_notetypes_usn": "CREATE INDEX idx_notetypes_usn ON notetypes (usn)",
    "idx_decks_name": "CREATE UNIQUE INDEX idx_decks_name ON decks (name)",
    "idx_notes_mid": "CREATE INDEX idx_notes_mid ON notes (mid)",
    "idx_cards_odid": "CREATE INDEX idx_cards_odid ON cards (odid) WHERE odid != 0",
    "idx_graves_pending": "CREATE INDEX idx_graves_pending ON graves (usn)",
}
"""The indexes of schema 18."""

_STATISTICS = {
    "sqlite_stat1": "CREATE TABLE sqlite_stat1(tbl,idx,stat)",
    "sqlite_stat4": "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
}
"""Left by ANALYZE, which clients run before they upload."""


def tables(version: int) -> tuple[Table, ...]:
    """The tables of a schema version."""
    found = [_COL, _NOTES, _CARDS, _REVLOG, _GRAVES_18 if version >= 18 else _GRAVES_11]
    if version >= 14:
        found += [_DECK_CONFIG, _CONFIG, _TAGS_17 if version >= 17 else _TAGS_14]
    if version >= 15:
        found += [_FIELDS, _TEMPLATES, _NOTETYPES, _DECKS]
    return tuple(found)


def normalised(sql: str) -> str:
    """A statement in lower case, without comments and superfluous space, to be compared with ours.

    Removing text that only looks like a comment inside quotes cannot make a foreign statement equal to one of
    ours: the quotes stay, and our statements have none.
    """
    spaced = _SPACE.sub(" ", _COMMENT.sub(" ", sql)).strip().lower()
    return _AROUND_PUNCTUATION.sub(r"\1", spaced)


def is_latest(objects: list[tuple[str, str, str, str | None]]) -> bool:
    """Whether a listing of `(type, name, tbl_name, sql)` is exactly schema 18, with or without statistics."""
    wanted = {name: ("table", name, sql) for name, sql in _STATISTICS.items()}
    optional = set(wanted)
    # Everything that must exist: type, table and statement by name.
    wanted |= {table.name: ("table", table.name, table.sql) for table in tables(LATEST)}
    wanted |= {name: ("index", sql.split(" ON ")[1].split(" ")[0], sql) for name, sql in INDEXES.items()}
    found = {name for _, name, _, _ in objects}
    # No object twice, none missing, and no others.
    if len(found) != len(objects) or not (wanted.keys() - optional <= found <= wanted.keys()):
        return False
    return all(
        (kind, table, normalised(sql or "")) == (*wanted[name][:2], normalised(wanted[name][2]))
        for kind, name, table, sql in objects
    )
