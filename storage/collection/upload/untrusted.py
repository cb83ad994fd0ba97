"""Opens an untrusted SQLite file read-only, with code in it disabled, and with limits on time and memory.

Used by the checks of uploads.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from storage.collection.schema import configure
from storage.errors import InvalidDatabase

_PATIENCE_S = 120
_STEPS_BETWEEN_LOOKS = 1_000_000
_LONGEST_VALUE_BYTES = 32 * 2**20
_CACHE_KIB = 4_096

_MOST_SCHEMA_STEPS = 5_000
_LONGEST_SCHEMA_VALUE_BYTES = 64 << 10
"""Enough for some hundred tables and indexes; Anki has 30, with statements of at most 600 bytes."""

_PRAGMAS = (
    "trusted_schema = OFF",
    "cell_size_check = ON",
    "ignore_check_constraints = ON",
    "mmap_size = 0",
    f"cache_size = -{_CACHE_KIB}",
)


class Deadline:
    """The time limit for all work on one file."""

    def __init__(self) -> None:
        self._end_s = time.monotonic() + _PATIENCE_S

    def is_over(self) -> bool:
        """Whether the time is over; SQLite's progress handler calls it."""
        return time.monotonic() > self._end_s

    def check(self) -> None:
        """Raises: InvalidDatabase if the time is over."""
        if self.is_over():
            raise InvalidDatabase(f"takes longer than {_PATIENCE_S} s")

    def apply_to(self, connection: apsw.Connection) -> None:
        """Interrupt the connection's statements when the time is over."""
        connection.set_progress_handler(self.is_over, _STEPS_BETWEEN_LOOKS)


@contextmanager
def open_hostile(
    path: Path, deadline: Deadline | None = None, longest_value_bytes: int = _LONGEST_VALUE_BYTES
) -> Iterator[apsw.Connection]:
    """A read-only connection to a file that no other process writes.

    Within the block, all errors of SQLite and of memory become InvalidDatabase.
    """
    connection = None
    try:
        connection = apsw.Connection(
            # `immutable`: no locks, no -wal or -shm files, no checks for changes.
            f"file:{quote(str(path))}?immutable=1",
            flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        )
        _harden(connection)
        _read_schema(connection)
        # Only now, as it replaces the progress handler that limits reading the schema.
        (deadline or Deadline()).apply_to(connection)
        limit_values(connection, longest_value_bytes)
        _add_functions(connection)
        yield connection
    except (apsw.Error, UnicodeError, MemoryError) as exc:
        raise InvalidDatabase(f"{type(exc).__name__}: {exc}") from exc
    finally:
        if connection is not None:
            # `force`: also if the caller has left statements open.
            connection.close(force=True)


def limit_values(connection: apsw.Connection, most_bytes: int) -> None:
    """Make statements fail on values that are longer."""
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, most_bytes)


def _harden(connection: apsw.Connection) -> None:
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    for what in (
        apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER,
        apsw.SQLITE_DBCONFIG_ENABLE_VIEW,
        apsw.SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER,
        apsw.SQLITE_DBCONFIG_DQS_DDL,
    ):
        connection.config(what, 0)
    configure(connection)


def _read_schema(connection: apsw.Connection) -> None:
    """Make SQLite read the schema, with limits on the statistics that it reads with it.

    A connection reads all of `sqlite_stat4` into memory, whatever its size. If the statement for that is
    interrupted or fails, SQLite works without statistics.
    """
    # A progress handler that returns True interrupts the statement.
    connection.set_progress_handler(lambda: True, _MOST_SCHEMA_STEPS)
    limit_values(connection, _LONGEST_SCHEMA_VALUE_BYTES)
    for pragma in _PRAGMAS:  # the first one makes SQLite read the schema
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute("SELECT 1 FROM sqlite_schema").fetchone()


def _add_functions(connection: apsw.Connection) -> None:
    """Add `casefold(text)`, and `readable(blob)`, which decodes text and replaces invalid bytes."""
    encoding = connection.execute("PRAGMA encoding").get

    def casefold(*values: Any) -> str | None:
        return values[0].casefold() if isinstance(values[0], str) else None

    def readable(*values: Any) -> str:
        return bytes(values[0]).decode(encoding, "replace")

    add = partial(
        connection.create_scalar_function, numargs=1, deterministic=True, flags=apsw.SQLITE_DIRECTONLY
    )
    add("casefold", casefold)
    add("readable", readable)
