"""The tag list. A tag is registered once, in the case of its first use and of its parents."""

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
"""From so many names on the whole list is read: asking for one name costs as much as reading some twenty."""

_LONGEST_WITH_PARENTS = 500
"""Longer tags keep their case whatever that of their parents is: all names above one of a megabyte, with a
level in every three letters, would take 170 GB."""

_MOST_BYTES_IN_MEMORY = 64 << 20
_BYTES_A_ROW = 200
"""What a name in memory takes beside its text."""


def split(tags: str) -> list[str]:
    """The tags of a note's tag column."""
    return [tag for tag in _SEPARATORS.split(tags) if tag]


def normalised_column(tags: str) -> str:
    """A note's tags as the column keeps them: each between single spaces."""
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
            fitting = _in_case_of_parents(known, name)
            key = fitting.casefold()
            known[key] = added[key] = fitting
    if not added:
        return
    # One statement in the order of the table: SQLite then finds the place of most rows beside the one before,
    # where a statement for each would compare some 17 names, each time by a call into Python.
    connection.execute(
        "INSERT OR REPLACE INTO tags (tag, usn, collapsed) SELECT value, ?, 1 FROM json_each(?)",
        (usn, json.dumps([added[key] for key in sorted(added)])),
    )
    tally.saw_usn(usn)


def normalised(tag: str) -> str:
    """The name without control characters and separators; an empty part becomes "blank"."""
    if _is_plain(tag):  # most are, and to look at each part takes long
        return tag
    return "::".join(
        _NOT_IN_TAGS.sub("", unicodedata.normalize("NFC", part)).strip() or "blank"
        for part in tag.split("::")
    )


def _is_plain(tag: str) -> bool:
    """Whether a tag is ASCII without anything to clean; false for some others that stay as they are too."""
    has_empty_part = not tag or "::::" in tag or tag.startswith("::") or tag.endswith("::")
    return tag.isascii() and tag.isprintable() and " " not in tag and not has_empty_part


def _known(connection: apsw.Connection, names: list[str]) -> dict[str, str]:
    """Tags of the list by their case-folded form: at least those that are one of the names or its parent."""
    if len(names) >= _MANY:
        rows, size_bytes = connection.execute("SELECT count(), sum(octet_length(tag)) FROM tags").get
        if rows * _BYTES_A_ROW + (size_bytes or 0) <= _MOST_BYTES_IN_MEMORY:
            return {tag.casefold(): tag for (tag,) in connection.execute("SELECT tag FROM tags")}
    wanted = {candidate for name in names for candidate in (name, *_parents(name))}
    found = (connection.execute("SELECT tag FROM tags WHERE tag = ?", (tag,)).get for tag in sorted(wanted))
    return {tag.casefold(): tag for tag in found if tag is not None}


def _parents(tag: str) -> Iterator[str]:
    """The names above a tag, the nearest one first; none of a tag that is very long."""
    if len(tag) > _LONGEST_WITH_PARENTS:
        return
    while (end := tag.rfind("::")) >= 0:
        tag = tag[:end]
        yield tag


def _in_case_of_parents(known: dict[str, str], tag: str) -> str:
    for above in _parents(tag):
        parent = known.get(above.casefold())
        if parent is not None:
            # the parent found may count its parts differently after case folding
            return "::".join([parent, *tag.split("::")[parent.count("::") + 1 :]])
    return tag
