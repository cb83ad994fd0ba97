"""Names of a database's objects. Every name carries the fencing token of its writer and a nonce.

`v1/<user>/<kind>/` then `s/<version>-<token>-<nonce>.snap`, `d/<first>-<last>-<token>-<nonce>.delta`,
`j/<token>/<seq>-<nonce>.req` or `h/<chain revision>-<token>-<nonce>.history`; numbers in hexadecimal.
"""

from __future__ import annotations

import re

from storage.types import ChainEntry, DatabaseId, EntryKind

_TOKEN = re.compile(
    r"(?:s/[0-9a-f]{16}-([0-9a-f]{16})-[^/]+\.snap"
    r"|d/[0-9a-f]{16}-[0-9a-f]{16}-([0-9a-f]{16})-[^/]+\.delta"
    r"|j/([0-9a-f]{16})/[0-9a-f]{4,}-[^/]+\.req"
    r"|h/[0-9a-f]{16}-([0-9a-f]{16})-[^/]+\.history)"
)


def prefix(database: DatabaseId) -> str:
    """What all names of one database begin with."""
    return f"v1/{database.user}/{database.kind.value}/"


def entry_key(database: DatabaseId, entry: ChainEntry) -> str:
    """The object of a chain entry."""
    if entry.kind == EntryKind.SNAPSHOT:
        return f"{prefix(database)}s/{entry.last:016x}-{entry.token:016x}-{entry.nonce}.snap"
    return f"{prefix(database)}d/{entry.first:016x}-{entry.last:016x}-{entry.token:016x}-{entry.nonce}.delta"


def journal_key(database: DatabaseId, token: int, seq: int, nonce: str) -> str:
    """The object of a journal body that is too large for the record."""
    return f"{prefix(database)}j/{token:016x}/{seq:04x}-{nonce}.req"


def history_prefix(database: DatabaseId) -> str:
    """What the names of a database's history objects begin with."""
    return f"{prefix(database)}h/"


def history_key(database: DatabaseId, chain_revision: int, token: int, nonce: str) -> str:
    """The object that names what left the chain of revision `chain_revision`."""
    return f"{history_prefix(database)}{chain_revision:016x}-{token:016x}-{nonce}.history"


def find_token(database: DatabaseId, key: str) -> int | None:
    """The fencing token that a key carries; None for a name this module does not give."""
    match = _TOKEN.fullmatch(key.removeprefix(prefix(database)))
    return None if match is None else int(next(filter(None, match.groups())), 16)
