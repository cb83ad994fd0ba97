"""The journal of a running sync: its requests, enough to do all of it again on another worker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import zstandard

from app.errors import AppError
from app.sync.messages import encode
from app.sync.methods import STEPS, SyncMethod
from app.sync.state import SyncState
from storage.packing import Packer
from storage.types import JournalEntry

MERGE_REVISION = 1
"""Raise it whenever a step would answer or store anything else than before for the same request.

A worker of another revision refuses the sync (the client starts anew) and never mixes the two.
"""

DIGEST_BYTES = 16
COMPRESSION_LEVEL = 1


class ReplayDiffers(AppError):
    """A replayed request was answered otherwise than at first: a bug, or two revisions in one."""


def digest(method: str, body: bytes) -> bytes:
    """What tells two requests apart."""
    return hashlib.sha256(method.encode() + b"\0" + body).digest()[:DIGEST_BYTES]


def write_entry(method: str, body: bytes, now_ms: int, answer: bytes | None, packer: Packer) -> JournalEntry:
    """The entry of a request; its answer is None where it is written before it is answered."""
    return JournalEntry(
        method=method,
        digest=digest(method, body),
        now_ms=now_ms,
        body=packer.pack(body),
        key=None,
        answer_digest=b"" if answer is None else _answer_digest(answer),
    )


def _answer_digest(answer: bytes) -> bytes:
    return hashlib.sha256(answer).digest()[:DIGEST_BYTES]


def take_step(method: str, request: object, state: SyncState, now_ms: int) -> bytes:
    """Do one request, whether new or replayed, and return its JSON answer."""
    state.now_ms = now_ms
    return encode(STEPS[method].take(request, state))


def replay(entries: Iterable[tuple[JournalEntry, bytes]], state: SyncState) -> bytes:
    """Do all requests of a journal again, on a fresh copy; returns the last answer.

    `entries` come with the zstd frames of their bodies. Raises: ReplayDiffers.
    """
    answer = b""
    for entry, frame in entries:
        body = zstandard.ZstdDecompressor().decompress(frame)
        request = STEPS[entry.method].read(body)
        answer = take_step(entry.method, request, state, entry.now_ms)
        if entry.method != SyncMethod.START and _answer_digest(answer) != entry.answer_digest:
            raise ReplayDiffers(f"{entry.method} at {entry.now_ms}")
    return answer
