"""The store of host keys in the users' file. Nothing is cached, so a revocation takes effect at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apsw
import msgspec

from app.auth.hostkeys import KeyRecord
from app.auth.local.usersfile import UsersFile
from storage.types import UserId

_COLUMNS = "hash, user, client, created_ms, used_ms, checked_ms, sealed, kind, name, parent"


class LocalHostKeys:
    """See `app.auth.hostkeys.HostKeys`. `find` reads one row, on the event loop."""

    def __init__(self, file: UsersFile) -> None:
        self._file = file

    def add(self, record: KeyRecord) -> None:
        row = (
            record.hash, record.user, record.client,
            record.created_ms, record.used_ms, record.checked_ms, record.sealed,
            record.kind.value, record.name, record.parent,
        )  # fmt: skip
        sql = f"INSERT INTO keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - fixed words
        self._file.write(lambda connection: _changes(connection, sql, row))

    def find(self, key_hash: bytes) -> KeyRecord | None:
        rows = self._file.read(f"SELECT {_COLUMNS} FROM keys WHERE hash = ?", (key_hash,))  # noqa: S608 - fixed words
        return _record(rows[0]) if rows else None

    def touch(self, record: KeyRecord) -> None:
        sql = "UPDATE keys SET used_ms = ?, checked_ms = ?, sealed = ? WHERE hash = ?"
        row = (record.used_ms, record.checked_ms, record.sealed, record.hash)
        self._file.write(lambda connection: _changes(connection, sql, row), durable=False)

    def revoke(self, key_hash: bytes) -> bool:
        sql = "DELETE FROM keys WHERE hash = ?"
        return self._file.write(lambda connection: _changes(connection, sql, (key_hash,))) > 0

    def revoke_all(self, user: UserId) -> int:
        return self._file.write(lambda connection: delete_keys_of(connection, user))

    def list(self, user: UserId | None = None) -> Iterator[KeyRecord]:
        sql = f"SELECT {_COLUMNS} FROM keys WHERE ?1 IS NULL OR user = ?1 ORDER BY created_ms, hash"  # noqa: S608 - fixed words
        return (_record(row) for row in self._file.read(sql, (user,)))


def delete_keys_of(connection: apsw.Connection, user: UserId) -> int:
    """Delete the keys of a user, in a transaction of the caller; returns their number."""
    return _changes(connection, "DELETE FROM keys WHERE user = ?", (user,))


def _record(row: Sequence[Any]) -> KeyRecord:
    return msgspec.convert(dict(zip(_COLUMNS.split(", "), row, strict=True)), KeyRecord)


def _changes(connection: apsw.Connection, sql: str, bindings: tuple[object, ...]) -> int:
    connection.execute(sql, bindings)
    return connection.changes()
