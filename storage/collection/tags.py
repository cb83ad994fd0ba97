"""The tag list. A tag is registered once, in the case of its first use and of its parents."""

from __future__ import annotations

import re
import unicodedata

import apsw

from storage.collection.schema import pending_clause
from storage.collection.tally import Tally

_SEPARATORS = re.compile("[ \u3000]+")
_NOT_IN_TAGS = re.compile("[\\x00-\\x20\\x7f\u3000]")


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
    for tag in tags:
        name = normalised(tag)
        if _find(connection, name) is None:
            connection.execute(
                "INSERT OR REPLACE INTO tags (tag, usn, collapsed) VALUES (?, ?, 1)",
                (_in_case_of_parents(connection, name), usn),
            )
            tally.saw_usn(usn)


def normalised(tag: str) -> str:
    """The name without control characters and separators; an empty part becomes "blank"."""
    return "::".join(
        _NOT_IN_TAGS.sub("", unicodedata.normalize("NFC", part)).strip() or "blank"
        for part in tag.split("::")
    )


def _find(connection: apsw.Connection, tag: str) -> str | None:
    found: str | None = connection.execute("SELECT tag FROM tags WHERE tag = ?", (tag,)).get
    return found


def _in_case_of_parents(connection: apsw.Connection, tag: str) -> str:
    parts = tag.split("::")
    for depth in range(len(parts) - 1, 0, -1):
        parent = _find(connection, "::".join(parts[:depth]))
        if parent is not None:
            # the parent found may count its parts differently after case folding
            return "::".join([parent, *parts[parent.count("::") + 1 :]])
    return tag
