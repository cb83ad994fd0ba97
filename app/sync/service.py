"""The collection's side of the server, free of any web framework: bytes in, bytes or a file out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import ProtocolError, UnknownMethod
from app.sync import messages, transfer
from app.sync.genesis import Genesis
from app.sync.meta import meta
from app.sync.methods import STEPS, SyncMethod
from app.sync.session import Call, Sessions, session_id
from app.sync.slots import Lock, Slot, Slots
from app.sync.transfer import Download, Transfer
from storage.collection.codec import Codec
from storage.database.store import DatabaseStore
from storage.errors import InvalidDatabase
from storage.types import DatabaseId, DatabaseKind, Offload, UserId

INLINE_BYTES = 1 << 16
"""Larger requests are read off the event loop."""

NULL = b"null"


@dataclass(frozen=True, slots=True)
class SyncLimits:
    """How much of everything."""

    collection_bytes: int = 3 * 100 * 1024 * 1024
    """Three times MAX_SYNC_PAYLOAD_MEGS: no larger collection is taken, or synced other than one way."""
    most_live: int = 256
    """Running syncs that one worker keeps at hand."""
    idle_ms: int = 15 * 60 * 1000
    """After so long without a request a worker lets a running sync go."""


class SyncService:
    """All methods of the collection protocol but `hostKey`. One per worker process."""

    def __init__(  # noqa: PLR0913 - collaborators, all by name
        self,
        store: DatabaseStore,
        codec: Codec,
        folder: Path,
        *,
        offload: Offload[Any],
        clock_ms: Callable[[], int],
        nonce: Callable[[], str],
        limits: SyncLimits | None = None,
        new_lock: Callable[[], Lock] = threading.Lock,
    ) -> None:
        limits = limits or SyncLimits()
        genesis = Genesis(store, folder, offload, clock_ms, nonce)
        self._store = store
        self._offload = offload
        self._clock_ms = clock_ms
        self._limit_bytes = limits.collection_bytes
        self._slots = Slots(new_lock, clock_ms, limits.most_live, limits.idle_ms)
        self._sessions = Sessions(store, codec, genesis, offload, clock_ms)
        self._transfer = Transfer(store, codec, genesis, folder, offload, clock_ms, nonce)

    def close(self) -> None:
        """Let all running syncs go, for the process ends; other workers carry them on."""
        for live in self._slots.take_all():
            self._store.release(live.checkout)

    def call(self, user: UserId, method: str, skey: str, version: int, payload: bytes) -> bytes:
        """Answer a method that has JSON on both sides.

        Raises: AppError, storage.errors.StorageError.
        """
        del version  # `meta` brings its own, the others are alike in all
        if method == SyncMethod.META:
            return self._meta(user, payload)
        if method == SyncMethod.ABORT:
            return self._abort(user, skey, payload)
        if not skey:
            raise ProtocolError("the session key is missing")
        if method == SyncMethod.START:
            return self._start(user, skey, payload)
        if method in STEPS:
            return self._advance(user, method, skey, payload)
        if method == SyncMethod.SANITY_CHECK:
            return self._check(user, skey, payload)
        if method == SyncMethod.FINISH:
            return self._finish(user, skey, payload)
        raise UnknownMethod(f"{method} is none of {', '.join(SyncMethod)}")

    def _meta(self, user: UserId, payload: bytes) -> bytes:
        """Leaves running syncs alone, unlike the official server's."""
        request = messages.read_meta(payload)
        collection, media = self._store.heads([_collection_of(user), DatabaseId(user, DatabaseKind.MEDIA)])
        return messages.encode(meta(request, collection, media, self._clock_ms(), self._limit_bytes))

    def _start(self, user: UserId, skey: str, payload: bytes) -> bytes:
        request = self._read(messages.read_start, payload)
        for idle in self._slots.take_idle():
            self._store.release(idle.checkout)
        with self._slots.enter(_collection_of(user)) as slot:
            return self._sessions.start(_call_of(user, skey, slot), request, payload)

    def _advance(self, user: UserId, method: str, skey: str, payload: bytes) -> bytes:
        step = STEPS[method]
        request = self._read(step.read, payload)
        with self._slots.enter(_collection_of(user)) as slot:
            return self._sessions.advance(_call_of(user, skey, slot), step, request, payload)

    def _check(self, user: UserId, skey: str, payload: bytes) -> bytes:
        request = messages.read_sanity(payload)
        with self._slots.enter(_collection_of(user)) as slot:
            return self._sessions.check(_call_of(user, skey, slot), request)

    def _finish(self, user: UserId, skey: str, payload: bytes) -> bytes:
        messages.read_empty(payload)
        with self._slots.enter(_collection_of(user)) as slot:
            return self._sessions.finish(_call_of(user, skey, slot))

    def _abort(self, user: UserId, skey: str, payload: bytes) -> bytes:
        """Always null; ends the sync of this key only, unlike the official server's."""
        messages.read_empty(payload)
        if skey:
            with self._slots.enter(_collection_of(user)) as slot:
                self._sessions.abort(_call_of(user, skey, slot))
        return NULL

    def upload(self, user: UserId, path: Path) -> str:
        """Make a client's file the user's collection; OK, or the text that clients show."""
        if path.stat().st_size >= self._limit_bytes:
            return transfer.TOO_LARGE
        try:
            sound, stamps = self._transfer.admit(path)
        except InvalidDatabase:
            return transfer.CORRUPT
        database = _collection_of(user)
        try:
            with self._slots.enter(database) as slot:
                self._sessions.drop(slot)
                self._transfer.replace(database, sound, stamps)
        finally:
            sound.unlink(missing_ok=True)
        return transfer.OK

    def download(self, user: UserId, version: int, payload: bytes) -> Download:
        """Give the collection as a file; ends a running sync."""
        messages.read_empty(payload)
        database = _collection_of(user)
        with self._slots.enter(database) as slot:
            self._sessions.drop(slot)
            return self._transfer.give(database, version)

    def _read(self, read: Callable[[bytes], Any], payload: bytes) -> Any:
        if len(payload) <= INLINE_BYTES:
            return read(payload)
        return self._offload(lambda: read(payload))


def _call_of(user: UserId, skey: str, slot: Slot) -> Call:
    return Call(_collection_of(user), slot, session_id(user, skey))


def _collection_of(user: UserId) -> DatabaseId:
    return DatabaseId(user, DatabaseKind.COLLECTION)
