"""Encodes the entries of the journal, and the state of a session. Used by `session` and `merge`.

The journal keeps the messages with rows from the client until `sanityCheck2` merges them.
"""

from __future__ import annotations

import hashlib

import msgspec
import zstandard

from app.sync.messages import APPLY_CHANGES, APPLY_CHUNK, APPLY_GRAVES, CHUNK, SANITY_CHECK, START
from storage.collection.records import ChunkPosition
from storage.packing import Packer
from storage.types import JournalEntry, Session

MERGE_REVISION = 2
"""Increase it whenever the merge of a given journal has another result than before, or its format changes.

A worker with another revision ends the sync with 409, and the client starts again.
"""

DIGEST_BYTES = 16
COMPRESSION_LEVEL = 1

JOURNALLED = (APPLY_GRAVES, APPLY_CHANGES, APPLY_CHUNK)
"""The methods whose requests are added to the journal."""


class SyncState(msgspec.Struct, frozen=True, array_like=True):
    """The state of a sync in the head record, besides its journal."""

    client_usn: int
    """The lowest USN of the server that the client has not seen."""
    client_is_newer: bool
    """Whether the client's config replaces the server's; else the other way round."""
    sent: ChunkPosition = ChunkPosition()
    """The last rows that `chunk` has sent."""
    key_until_ms: int = 0
    """Until this time the host key that started the sync needs no other check: see `admission`."""
    device: str = ""
    """The id of that host key, for the operator."""


encode_state = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(SyncState).decode


def decode_state(state: bytes) -> SyncState:
    """The state of a session whose `merge_revision` is MERGE_REVISION."""
    return _decode_state(state)


def step_and_device(session: Session) -> tuple[str, str]:
    """The last step that a running sync has noted, and the id of its host key; empty if it is not known."""
    state = decode_state(session.state) if session.merge_revision == MERGE_REVISION else SyncState(0, False)  # noqa: FBT003 - a field
    methods = [entry.method for entry in session.journal]
    if session.prepared is not None:
        return SANITY_CHECK, state.device
    if APPLY_CHUNK not in methods and state.sent != ChunkPosition():
        return CHUNK, state.device
    return methods[-1] if methods else START, state.device


def digest(method: str, body: bytes) -> bytes:
    """A digest that identifies a request, to recognise one that arrives twice."""
    return hashlib.sha256(method.encode() + b"\0" + body).digest()[:DIGEST_BYTES]


class JournalWriter:
    """Makes journal entries."""

    def __init__(self) -> None:
        self._packer = Packer(COMPRESSION_LEVEL)

    def entry(self, method: str, body: bytes, now_ms: int) -> JournalEntry:
        """The entry of one request, its body compressed."""
        # Compressed, as all of the journal is in the head record.
        packed = self._packer.pack(body)
        return JournalEntry(method, digest(method, body), now_ms, packed, None, size_bytes=len(body))


def read_body(frame: bytes) -> bytes:
    """Decompress the body of an entry: the request's JSON."""
    return zstandard.ZstdDecompressor().decompress(frame)
