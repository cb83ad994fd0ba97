"""The methods of the collection protocol, independent of HTTP: bytes in, bytes or a file out.

Called by `app.http.collection`; the commands for imports use uploads, too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from app.errors import ProtocolError, Refusal, UnknownMethod, refusal
from app.sync import messages, transfer
from app.sync.admission import Admission
from app.sync.empty_collection import Genesis
from app.sync.meta import Limits, answer_of_refusal, meta, over_quota
from app.sync.session import Sessions, Sync, session_id
from app.sync.transfer import Download, Transfer
from storage.collection.engine.codec import Codec
from storage.database.orders import Quota
from storage.database.origin import Kind, Origin
from storage.database.store import DatabaseStore
from storage.errors import InvalidDatabase
from storage.types import DatabaseId, DatabaseKind, Offload, UserId

INLINE_BYTES = 1 << 16
"""Larger requests are decoded off the event loop."""

NULL = b"null"


Run = Callable[[Sync, Any, bytes], bytes]
"""Answers a request, from its sync, the decoded message and the message's bytes."""


class Method(NamedTuple):
    """One method of a running sync."""

    read: Callable[[bytes], Any]
    """Decodes the message. Raises: ProtocolError."""
    run: Run


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
        limit_bytes: int = 3 * 100 * 1024 * 1024,
        quota_of: Callable[[UserId], Quota] = lambda _user: Quota(),
    ) -> None:
        """`quota_of`: what a user may keep.

        `limit_bytes`: no larger collection is taken, or synced other than one way; three times
        MAX_SYNC_PAYLOAD_MEGS.
        """
        genesis = Genesis(store, folder, offload, clock_ms, nonce)
        self._store = store
        self._offload = offload
        self._clock_ms = clock_ms
        self._limit_bytes = limit_bytes
        self._quota_of = quota_of
        self._transfer = Transfer(store, codec, genesis, folder, offload, clock_ms, nonce)
        sessions = self._sessions = Sessions(store, codec, genesis, offload, clock_ms)
        self._methods = {
            messages.START: Method(
                messages.read_start, lambda sync, message, _: sessions.start(sync, message)
            ),
            messages.APPLY_GRAVES: Method(messages.read_apply_graves, self._keep(messages.APPLY_GRAVES)),
            messages.APPLY_CHANGES: Method(
                messages.read_apply_changes, lambda sync, _, body: sessions.apply_changes(sync, body)
            ),
            messages.CHUNK: Method(messages.read_empty, lambda sync, _message, _body: sessions.chunk(sync)),
            messages.APPLY_CHUNK: Method(messages.read_apply_chunk, self._keep(messages.APPLY_CHUNK)),
            messages.SANITY_CHECK: Method(messages.read_sanity, sessions.check),
            messages.FINISH: Method(messages.read_empty, lambda sync, _message, _body: sessions.finish(sync)),
        }

    def _keep(self, name: str) -> Run:
        """The `run` of a method that only appends its message to the journal, and answers null."""

        def run(sync: Sync, _message: Any, body: bytes) -> bytes:
            self._sessions.append(sync, name, body)
            return NULL

        return run

    def call(self, admission: Admission, method: str, skey: str, version: int, payload: bytes) -> bytes:
        """Answer a method whose request and answer are JSON.

        Nothing about a user's data is revealed before the host key was checked: the methods of a running sync
        check it themselves. Raises: AppError, storage.errors.StorageError.
        """
        del version  # `meta` brings its own, the others are alike in all
        known = self._methods.get(method)
        # A step of a running sync: it checks the host key together with the session.
        if known is not None and skey:
            message = self._read(admission, known.read, payload)
            return known.run(_sync_of(admission, skey), message, payload)
        user = admission.user
        admission.prove()
        if method == messages.META:
            return self._meta(user, payload)
        if method == messages.ABORT:
            return self._abort(admission, skey, payload)
        if known is None:
            known_ones = (messages.META, messages.ABORT, *self._methods)
            raise UnknownMethod(f"{method} is none of {', '.join(known_ones)}")
        raise ProtocolError("the session key is missing")

    def _meta(self, user: UserId, payload: bytes) -> bytes:
        """Answer `meta`. Unlike on the official server, a running sync goes on."""
        request = messages.read_meta(payload)
        collection, media = self._store.sessions.heads(
            [_collection_of(user), DatabaseId(user, DatabaseKind.MEDIA)]
        )
        limits = Limits(self._limit_bytes, self._quota_of(user).collection_bytes)
        answer = meta(request, collection, media, self._clock_ms(), limits)
        if answer.message:
            refusal.set(Refusal("QuotaExceeded" if answer.go_on else "ClientTooOld", answer.message))
        return messages.encode(answer)

    def refuse(self, text: str) -> bytes:
        """The answer to `meta` that lets clients show a text, and do nothing else."""
        return messages.encode(answer_of_refusal(text, self._clock_ms()))

    def _abort(self, admission: Admission, skey: str, payload: bytes) -> bytes:
        """Answer `abort` with null. Unlike on the official server, other sessions of the user go on."""
        messages.read_empty(payload)
        if skey:
            self._sessions.abort(_sync_of(admission, skey))
        return NULL

    def upload(self, user: UserId, path: Path, device: str = "", *, kind: Kind = Kind.UPLOAD) -> str:
        """Make a file the user's collection; OK, or the text that clients show.

        `device` and `kind` tell people later how the version came to be.
        """
        # Clients show these texts, so they come with status 200.
        if path.stat().st_size >= self._limit_bytes:
            return transfer.TOO_LARGE
        try:
            sound, stamps = self._transfer.admit(path)
        except InvalidDatabase:
            return transfer.CORRUPT
        try:
            quota_bytes = self._quota_of(user).collection_bytes
            if quota_bytes is not None and (size_bytes := sound.stat().st_size) > quota_bytes:
                text = over_quota(size_bytes, quota_bytes)
                refusal.set(Refusal("QuotaExceeded", text))
                return text
            self._transfer.replace(_collection_of(user), sound, stamps, Origin(kind, device))
        finally:
            sound.unlink(missing_ok=True)
        return transfer.OK

    def download(self, user: UserId, version: int, payload: bytes, device: str = "") -> Download:
        """The collection as a file; ends a running sync."""
        messages.read_empty(payload)
        return self._transfer.give(_collection_of(user), version, device)

    def _read(self, admission: Admission, read: Callable[[bytes], Any], payload: bytes) -> Any:
        try:
            if len(payload) <= INLINE_BYTES:
                return read(payload)
            return self._offload(lambda: read(payload))
        except ProtocolError:
            admission.prove()  # an invalid key is reported first, before an invalid message
            raise


def _sync_of(admission: Admission, skey: str) -> Sync:
    user = admission.user
    return Sync(_collection_of(user), session_id(user, skey, admission.key_hash), admission)


def _collection_of(user: UserId) -> DatabaseId:
    return DatabaseId(user, DatabaseKind.COLLECTION)
