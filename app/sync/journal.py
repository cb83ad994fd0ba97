"""The journal of a running sync: the messages that bring the client's rows, until they are merged."""

from __future__ import annotations

import hashlib

import msgspec
import zstandard

from app.sync.messages import APPLY_CHANGES, APPLY_CHUNK, APPLY_GRAVES, CHUNK, SANITY_CHECK, START
from storage.collection.records import ChunkPosition
from storage.packing import Packer
from storage.types import JournalEntry, Session

MERGE_REVISION = 2
"""Raise it whenever the same journal would be merged otherwise than before, or means something else.

A worker of another revision ends the sync with 409, and the client starts anew.
"""

DIGEST_BYTES = 16
COMPRESSION_LEVEL = 1

JOURNALLED = (APPLY_GRAVES, APPLY_CHANGES, APPLY_CHUNK)
"""The methods whose requests are kept."""


class SyncState(msgspec.Struct, frozen=True, array_like=True):
    """What the head record keeps of a sync beside its journal."""

    client_usn: int
    """The lowest USN of ours that the client does not know."""
    client_is_newer: bool
    """Whose config wins."""
    sent: ChunkPosition = ChunkPosition()
    """Up to where `chunk` has given our rows."""
    key_until_ms: int = 0
    """Until when the host key that began the sync needs no other proof than the session."""
    device: str = ""
    """The id of that host key, for the operator."""


encode_state = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(SyncState).decode


def decode_state(state: bytes) -> SyncState:
    """The state of a session of this revision."""
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
    """Tells two requests apart."""
    return hashlib.sha256(method.encode() + b"\0" + body).digest()[:DIGEST_BYTES]


class JournalWriter:
    """Makes the entries of requests."""

    def __init__(self) -> None:
        self._packer = Packer(COMPRESSION_LEVEL)

    def entry(self, method: str, body: bytes, now_ms: int) -> JournalEntry:
        """The entry of one request, its body compressed."""
        packed = self._packer.pack(body)
        return JournalEntry(method, digest(method, body), now_ms, packed, None, size_bytes=len(body))


def read_body(frame: bytes) -> bytes:
    """The request's JSON of an entry's zstd frame."""
    return zstandard.ZstdDecompressor().decompress(frame)
