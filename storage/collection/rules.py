"""What the columns of an uploaded collection may hold, and what takes the place of anything else.

There is one rule for both ways in. What a normal sync could not bring, because the messages have no room
for it, does not come in by a full upload either: clients would refuse every chunk with such a row. What the
official server reads as a default value, or never reads, is no reason to refuse a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

HIGHEST_USN = 2_000_000_000
"""A USN has 31 bits; there must be room for it to go up."""

LATEST_TIME_MS = 2**53 - 1


class Rule(NamedTuple):
    """Two pieces of SQL about a column."""

    odd: str
    """Holds if the value must not stay; empty if any may."""
    kept: str
    """The value to keep: the column itself where it is not odd, unless it is NULL.

    What cannot be mended stays as it is, so that it is odd afterwards too.
    """


Rules = Mapping[str, Rule]


def texts(*columns: str) -> Rules:
    """Columns whose readers take text alone."""
    return {name: Rule(f"typeof({name}) != 'text'", name) for name in columns}


def blobs(*columns: str) -> Rules:
    """Columns whose readers take blobs alone."""
    return {name: Rule(f"typeof({name}) != 'blob'", name) for name in columns}


def integers(*columns: str) -> Rules:
    """Columns whose readers take integers alone; fractions are cut off."""
    return {
        name: Rule(
            f"typeof({name}) != 'integer'",
            f"CASE typeof({name}) WHEN 'real' THEN CAST({name} AS integer) ELSE {name} END",
        )
        for name in columns
    }


def within(low: int, high: int, *columns: str) -> Rules:
    """Columns of integers that travel in fewer bits; the nearest number takes the place of others."""
    return {
        name: Rule(
            f"typeof({name}) != 'integer' OR {name} NOT BETWEEN {low} AND {high}",
            f"CASE WHEN typeof({name}) IN ('integer', 'real') "
            f"THEN max({low}, min({high}, CAST({name} AS integer))) ELSE {name} END",
        )
        for name in columns
    }


def cast_within(low: int, high: int, *columns: str) -> Rules:
    """The same for columns that are read by a cast: fractions and texts stay if it brings them in range."""
    return {
        name: Rule(
            f"CAST({name} AS integer) NOT BETWEEN {low} AND {high}",
            f"CASE WHEN CAST({name} AS integer) BETWEEN {low} AND {high} THEN {name} "
            f"ELSE max({low}, min({high}, CAST({name} AS integer))) END",
        )
        for name in columns
    }


def low_byte_within(low: int, high: int, *columns: str) -> Rules:
    """Kinds that the engine reads from the lowest byte of an integer; unknown ones become 0.

    The byte is signed if the range goes below zero. Source: rslib/src/storage/card/mod.rs of ankitects/anki.
    """
    sign = " - ({0} & 128) * 2" if low < 0 else ""
    byte = "(CAST({0} AS integer) & 255)" + sign
    return {
        name: Rule(
            f"typeof({name}) != 'integer' OR {name} NOT BETWEEN {low} AND {high}",
            f"CASE WHEN typeof({name}) NOT IN ('integer', 'real') THEN {name} "
            f"WHEN {byte.format(name)} BETWEEN {low} AND {high} THEN {byte.format(name)} ELSE 0 END",
        )
        for name in columns
    }


def or_else(default: str, *columns: str) -> Rules:
    """Columns whose readers fall back to a default: everything stays but NULL."""
    return {name: Rule("", f"coalesce({name}, {default})") for name in columns}


def unread(kind: str, default: str, *columns: str) -> Rules:
    """Columns that nothing reads: values of another kind than theirs are replaced."""
    return {
        name: Rule(
            f"typeof({name}) != '{kind}'", f"CASE typeof({name}) WHEN '{kind}' THEN {name} ELSE {default} END"
        )
        for name in columns
    }


_IS_USN = f"typeof(usn) = 'integer' AND usn BETWEEN -1 AND {HIGHEST_USN}"

USN: Rules = {
    "usn": Rule(f"NOT ({_IS_USN})", f"CASE WHEN {_IS_USN} THEN usn ELSE (SELECT usn FROM col) END"),  # noqa: S608
}
"""When a row changed. What is no USN becomes that of the collection: then no device misses the row."""

MODIFIED: Rules = {
    "mod": Rule(
        f"typeof(mod) != 'integer' OR mod > {LATEST_TIME_MS}",
        f"CASE WHEN typeof(mod) NOT IN ('integer', 'real') THEN mod WHEN mod > {LATEST_TIME_MS} THEN 1 "
        "ELSE CAST(mod AS integer) END",
    ),
}
"""When a collection changed. A time that has no later one is replaced, which leads to a normal sync."""

CARD_DATA: Rules = {
    "data": Rule(
        "",
        "CASE typeof(data) WHEN 'text' THEN readable(CAST(data AS blob)) ELSE coalesce(data, '') END",
    ),
}
"""Read as empty if it is no JSON; bytes that are no text are replaced (`readable`, see `hostile`)."""
