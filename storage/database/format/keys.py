"""Names of a database's objects. Every name but a failure's has the fencing token of its writer; all a nonce.

`v1/<user>/<kind>/` then `s/<version>-<token>-<nonce>.snap`, `d/<first>-<last>-<token>-<nonce>.delta`,
`j/<token>/<seq>-<nonce>.req`, `h/<chain revision>-<token>-<nonce>.history` or `f/<time>-<nonce>.failure`;
numbers in hexadecimal.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from storage.types import ChainEntry, DatabaseId, DatabaseKind, EntryKind, UserId

DATABASES = "v1/"
"""Prefix of the keys of all databases."""

_NAME = re.compile(
    r"(?:s/(?P<snapshot>[0-9a-f]{16})-(?P<s>[0-9a-f]{16})-[^/]+\.snap"
    r"|d/[0-9a-f]{16}-(?P<delta>[0-9a-f]{16})-(?P<d>[0-9a-f]{16})-[^/]+\.delta"
    r"|j/(?P<j>[0-9a-f]{16})/[0-9a-f]{4,}-[^/]+\.req"
    r"|h/(?P<revision>[0-9a-f]{16})-(?P<h>[0-9a-f]{16})-[^/]+\.history)"
)

_ENTRY = re.compile(
    r"(?:s/|d/(?P<first>[0-9a-f]{16})-)(?P<last>[0-9a-f]{16})-(?P<token>[0-9a-f]{16})-(?P<nonce>[^/]+)"
    r"\.(?:snap|delta)"
)


class ObjectName(NamedTuple):
    """The parts of an object's name."""

    token: int
    version: int | None
    """The version of a snapshot; the last version of a delta."""
    chain_revision: int | None
    """Of a history object."""


def prefix(database: DatabaseId) -> str:
    """Prefix of the keys of one database."""
    return f"{DATABASES}{database.user}/{database.kind.value}/"


def user_prefix(user: UserId) -> str:
    """What all names of a user's databases begin with."""
    return f"{DATABASES}{user}/"


def entry_key(database: DatabaseId, entry: ChainEntry) -> str:
    """The key of a chain entry's object."""
    if entry.kind == EntryKind.SNAPSHOT:
        return f"{prefix(database)}s/{entry.last:016x}-{entry.token:016x}-{entry.nonce}.snap"
    return f"{prefix(database)}d/{entry.first:016x}-{entry.last:016x}-{entry.token:016x}-{entry.nonce}.delta"


def journal_key(database: DatabaseId, token: int, seq: int, nonce: str) -> str:
    """The key of a journal body that is too large for the head record."""
    return f"{prefix(database)}j/{token:016x}/{seq:04x}-{nonce}.req"


def history_prefix(database: DatabaseId) -> str:
    """Prefix of the keys of a database's history objects."""
    return f"{prefix(database)}h/"


def history_key(database: DatabaseId, chain_revision: int, token: int, nonce: str) -> str:
    """The key of the history object for the chain of revision `chain_revision`."""
    return f"{history_prefix(database)}{chain_revision:016x}-{token:016x}-{nonce}.history"


def failure_prefix(database: DatabaseId) -> str:
    """What the names of the records of a database's failed syncs begin with."""
    return f"{prefix(database)}f/"


def failure_key(database: DatabaseId, time_ms: int, nonce: str) -> str:
    """The record of a sync that failed. No version depends on it, so it carries no token."""
    return f"{failure_prefix(database)}{time_ms:016x}-{nonce}.failure"


def parse(database: DatabaseId, key: str) -> ObjectName | None:
    """The parts of a key; None if it has another form."""
    match = _NAME.fullmatch(key.removeprefix(prefix(database)))
    if match is None:
        return None
    found = {name: int(value, 16) for name, value in match.groupdict().items() if value is not None}
    (token,) = (found[kind] for kind in "sdjh" if kind in found)
    return ObjectName(token, found.get("snapshot", found.get("delta")), found.get("revision"))


def parse_entry(database: DatabaseId, key: str) -> ChainEntry | None:
    """What the key of a snapshot or delta tells of its chain entry; its other fields are empty."""
    match = _ENTRY.fullmatch(key.removeprefix(prefix(database)))
    if match is None:
        return None
    last, token = int(match["last"], 16), int(match["token"], 16)
    first = last if match["first"] is None else int(match["first"], 16)
    kind = EntryKind.SNAPSHOT if match["first"] is None else EntryKind.DELTA
    return ChainEntry(kind, first, last, token, match["nonce"], 0, b"", 0, 0, 0, (), 0)


def find_token(database: DatabaseId, key: str) -> int | None:
    """The fencing token in a key; None if it has another form."""
    name = parse(database, key)
    return None if name is None else name.token


def database_of(key: str) -> DatabaseId | None:
    """The database that a key belongs to; None if it belongs to none."""
    user, _, rest = key.removeprefix(DATABASES).partition("/")
    kind = rest.partition("/")[0]
    if not key.startswith(DATABASES) or kind not in set(DatabaseKind):
        return None
    return DatabaseId(UserId(user), DatabaseKind(kind))
