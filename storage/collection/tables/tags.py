"""Reads and extends the tag list. Called by `collection`, `unseen` and `notes`.

A tag is added once, in the case of its first use; the part that is a known parent takes that one's case.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator

import apsw

from storage.collection.schema import pending_clause
from storage.collection.tally import Tally

_SEPARATORS = re.compile("[ \u3000]+")
_NOT_IN_TAGS = re.compile("[\\x00-\\x20\\x7f\u3000]")

_MANY = 500
"""From this number of names on, the whole list is read: finding one name costs as much as reading twenty."""

_LONGEST_WITH_PARENTS = 500
"""The parents of longer tags are not looked up: those of one megabyte, with a level every three characters,
would take 170 GB."""

_MOST_BYTES_IN_MEMORY = 64 << 20
_BYTES_A_ROW = 200
"""Memory that a name takes besides its text."""


def split(tags: str) -> list[str]:
    """The tags of a note's tag column."""
    return [tag for tag in _SEPARATORS.split(tags) if tag]


def normalised_column(tags: str) -> str:
    """A note's tags in the form of the column: each one between single spaces."""
    found = split(tags)
    return f" {' '.join(found)} " if found else ""


def pending(connection: apsw.Connection, min_usn: int) -> list[str]:
    """Tags that the client has not seen."""
    return [
        tag
        for (tag,) in connection.execute(
            f"SELECT tag FROM tags WHERE {pending_clause(min_usn)}",  # noqa: S608 - one of two clauses
            (min_usn,),
        )
    ]


def register(connection: apsw.Connection, tally: Tally, tags: list[str], usn: int) -> None:
    """Add the tags that are not in the list yet, whatever their case."""
    names = list(dict.fromkeys(map(normalised, tags)))
    known = _known(connection, names)
    added: dict[str, str] = {}
    for name in names:
        if name.casefold() not in known:
            # The tag's parents may be in the list with another case.
            fitting = _in_case_of_parents(known, name)
            key = fitting.casefold()
            known[key] = added[key] = fitting
    if not added:
        return
    # One statement, ordered by the primary key: SQLite then finds the place of most rows next to the previous
    # one. With a statement per row it would compare some 17 names, each by a call into Python.
    connection.execute(
        "INSERT OR REPLACE INTO tags (tag, usn, collapsed) SELECT value, ?, 1 FROM json_each(?)",
        (usn, json.dumps([added[key] for key in sorted(added)])),
    )
    tally.saw_usn(usn)


def normalised(tag: str) -> str:
    """The name without control characters and separators; an empty part becomes "blank"."""
    if _is_plain(tag):  # most are, and normalising each part is slow
        return tag
    return "::".join(
        _NOT_IN_TAGS.sub("", unicodedata.normalize("NFC", part)).strip() or "blank"
        for part in tag.split("::")
    )


def _is_plain(tag: str) -> bool:
    """Whether a tag is certainly normalised: printable ASCII without spaces or empty parts."""
    has_empty_part = not tag or "::::" in tag or tag.startswith("::") or tag.endswith("::")
    return tag.isascii() and tag.isprintable() and " " not in tag and not has_empty_part


def _known(connection: apsw.Connection, names: list[str]) -> dict[str, str]:
    """Case-folded tag -> tag of the list: at least for the names that are in it, and their parents."""
    if len(names) >= _MANY:
        # Unless the list is too large for memory.
        rows, size_bytes = connection.execute("SELECT count(), sum(octet_length(tag)) FROM tags").get
        if rows * _BYTES_A_ROW + (size_bytes or 0) <= _MOST_BYTES_IN_MEMORY:
            return {tag.casefold(): tag for (tag,) in connection.execute("SELECT tag FROM tags")}
    # A few names: look up each of them, and its parents.
    wanted = {candidate for name in names for candidate in (name, *_parents(name))}
    found = (connection.execute("SELECT tag FROM tags WHERE tag = ?", (tag,)).get for tag in sorted(wanted))
    return {tag.casefold(): tag for tag in found if tag is not None}


def _parents(tag: str) -> Iterator[str]:
    """The parents of a tag, the nearest one first; none if the tag is very long."""
    if len(tag) > _LONGEST_WITH_PARENTS:
        return
    while (end := tag.rfind("::")) >= 0:
        tag = tag[:end]
        yield tag


def _in_case_of_parents(known: dict[str, str], tag: str) -> str:
    for above in _parents(tag):
        parent = known.get(above.casefold())
        if parent is not None:
            # Count the parts of the parent that was found: case folding may have changed their number.
            return "::".join([parent, *tag.split("::")[parent.count("::") + 1 :]])
    return tag
