"""The valid values of columns of an uploaded collection, and replacements for others. Used by `ddl`.

A value that messages of a normal sync cannot carry is not accepted in a full upload either: clients would
fail on each chunk with such a row. Values that the official server reads as a default, or never reads, are
accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

HIGHEST_USN = 2_000_000_000
"""USNs have 31 bits, and must be able to grow."""

LATEST_TIME_MS = 2**53 - 1


class Rule(NamedTuple):
    """Two SQL expressions about a column."""

    odd: str
    """True if the value must be replaced; empty if all values are valid."""
    kept: str
    """The value to store: the column itself if it is valid, else its replacement.

    A value for which there is no replacement is kept, so that the check after the rebuild finds it.
    """


Rules = Mapping[str, Rule]


def texts(*columns: str) -> Rules:
    """Columns that must have text."""
    return {name: Rule(f"typeof({name}) != 'text'", name) for name in columns}


def blobs(*columns: str) -> Rules:
    """Columns that must have blobs."""
    return {name: Rule(f"typeof({name}) != 'blob'", name) for name in columns}


def integers(*columns: str) -> Rules:
    """Columns that must have integers; other numbers are truncated."""
    return {
        name: Rule(
            f"typeof({name}) != 'integer'",
            f"CASE typeof({name}) WHEN 'real' THEN CAST({name} AS integer) ELSE {name} END",
        )
        for name in columns
    }


def within(low: int, high: int, *columns: str) -> Rules:
    """Columns with integers of fewer bits in messages; others are replaced by the nearest valid number."""
    return {
        name: Rule(
            f"typeof({name}) != 'integer' OR {name} NOT BETWEEN {low} AND {high}",
            f"CASE WHEN typeof({name}) IN ('integer', 'real') "
            f"THEN max({low}, min({high}, CAST({name} AS integer))) ELSE {name} END",
        )
        for name in columns
    }


def cast_within(low: int, high: int, *columns: str) -> Rules:
    """As `within`, for columns that are read by a cast: other types stay if the cast value is in range."""
    return {
        name: Rule(
            f"CAST({name} AS integer) NOT BETWEEN {low} AND {high}",
            f"CASE WHEN CAST({name} AS integer) BETWEEN {low} AND {high} THEN {name} "
            f"ELSE max({low}, min({high}, CAST({name} AS integer))) END",
        )
        for name in columns
    }


def low_byte_within(low: int, high: int, *columns: str) -> Rules:
    """Enumerations that the engine reads from the lowest byte of an integer; unknown values become 0.

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
    """Columns whose readers use a default for invalid values: only NULL is replaced."""
    return {name: Rule("", f"coalesce({name}, {default})") for name in columns}


def unread(kind: str, default: str, *columns: str) -> Rules:
    """Columns that are never read: values of another type are replaced."""
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
"""An invalid USN becomes that of the collection, so that all devices get the row."""

MODIFIED: Rules = {
    "mod": Rule(
        f"typeof(mod) != 'integer' OR mod > {LATEST_TIME_MS}",
        f"CASE WHEN typeof(mod) NOT IN ('integer', 'real') THEN mod WHEN mod > {LATEST_TIME_MS} THEN 1 "
        "ELSE CAST(mod AS integer) END",
    ),
}
"""The modification time of a collection. One too large to be exceeded is replaced; then devices sync."""

CARD_DATA: Rules = {
    "data": Rule(
        "",
        "CASE typeof(data) WHEN 'text' THEN readable(CAST(data AS blob)) ELSE coalesce(data, '') END",
    ),
}
"""Read as empty if it is not JSON; bytes that are not UTF-8 are replaced (`readable`, see `hostile`)."""
