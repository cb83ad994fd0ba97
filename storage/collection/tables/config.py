"""Reads and writes the config table (JSON values by key). A sync replaces it all if the client's is newer."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

SCHEDULER_V1 = 1
SCHEDULER_V2 = 2

UINT8 = range(2**8)
INT32 = range(-(2**31), 2**31)
UINT32 = range(2**32)

_decode = msgspec.json.decode
_encode = msgspec.json.encode


def read_all(connection: apsw.Connection) -> dict[str, Any]:
    """The whole config."""
    return {key: _decode(value) for key, value in connection.execute("SELECT key, val FROM config")}


def clear_usns(connection: apsw.Connection) -> None:
    """Set the USN of every key to 0, as the official server does when it sends the config."""
    connection.execute("UPDATE config SET usn = 0 WHERE usn != 0")


def replace_all(connection: apsw.Connection, entries: dict[str, Any], usn: int, now_s: int) -> None:
    """Delete all keys, and write these."""
    connection.execute("DELETE FROM config")
    connection.executemany(
        "INSERT OR REPLACE INTO config (key, usn, mtime_secs, val) VALUES (?, ?, ?, ?)",
        [(key, usn, now_s, _encode(value)) for key, value in entries.items()],
    )


def write(connection: apsw.Connection, key: str, value: Any, usn: int, now_s: int) -> None:
    """Write one key, unless it has this value already."""
    encoded = _encode(value)
    if connection.execute("SELECT val FROM config WHERE key = ?", (key,)).get != encoded:
        connection.execute(
            "INSERT OR REPLACE INTO config (key, usn, mtime_secs, val) VALUES (?, ?, ?, ?)",
            (key, usn, now_s, encoded),
        )


def find_integer(connection: apsw.Connection, key: str, allowed: range) -> int | None:
    """The integer under a key; None if it is missing, not an integer, or not in `allowed`."""
    encoded = connection.execute("SELECT val FROM config WHERE key = ?", (key,)).get
    try:
        value = _decode(encoded) if encoded is not None else None
    except msgspec.DecodeError:
        return None
    # `type` rather than `isinstance`: True is no number here.
    return value if type(value) is int and value in allowed else None


def scheduler_version(connection: apsw.Connection) -> int:
    """The scheduler's version, 1 or 2; anything else counts as 1."""
    found = find_integer(connection, "schedVer", UINT8)
    return SCHEDULER_V2 if found == SCHEDULER_V2 else SCHEDULER_V1
