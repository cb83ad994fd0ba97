"""Opening a file that a stranger made: nothing in it is run, nothing is written, nothing takes for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import apsw

from storage.collection.schema import configure
from storage.errors import InvalidDatabase

_PATIENCE_S = 120
_STEPS_BETWEEN_LOOKS = 1_000_000
_LONGEST_VALUE_BYTES = 32 * 2**20
_CACHE_KIB = 4_096

_PRAGMAS = (
    "trusted_schema = OFF",
    "cell_size_check = ON",
    "ignore_check_constraints = ON",
    "mmap_size = 0",
    f"cache_size = -{_CACHE_KIB}",
)


@contextmanager
def open_hostile(path: Path) -> Iterator[apsw.Connection]:
    """A read-only connection to a file that nobody else writes.

    Whatever SQLite finds wrong with the file while it is open comes out as InvalidDatabase.
    """
    connection = None
    try:
        connection = apsw.Connection(
            f"file:{quote(str(path))}?immutable=1",
            flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        )
        _harden(connection)
        yield connection
    except (apsw.Error, UnicodeError, MemoryError) as exc:
        raise InvalidDatabase(f"{type(exc).__name__}: {exc}") from exc
    finally:
        if connection is not None:
            connection.close(force=True)


def _harden(connection: apsw.Connection) -> None:
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    for what in (
        apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER,
        apsw.SQLITE_DBCONFIG_ENABLE_VIEW,
        apsw.SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER,
        apsw.SQLITE_DBCONFIG_DQS_DDL,
    ):
        connection.config(what, 0)
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE_BYTES)
    deadline = time.monotonic() + _PATIENCE_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_LOOKS)
    configure(connection)
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
