"""The steps of a running sync, from `start` to `finish`.

Called by `service`. Between two requests a sync exists only as the session in its head record, so any
worker can serve any of its requests.

- Steps with rows from the client (`applyGraves`, `applyChanges`, `applyChunk`) append their message to the
journal. - Steps with rows for the client (`start`, `applyChanges`, `chunk`) read the version that the sync
started with. If
  the head's stamps show that nothing is new for the client, they open no database.
- `sanityCheck2` merges the journal, stores the object of the next version, and writes a prepared commit.
- `finish` makes the prepared commit the head, with one conditional write.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import msgspec

from app.errors import NO_REFUSAL, NotApplicable, Refusal, SessionConflict, refusal
from app.sync import changes, graves, messages, sanity
from app.sync.admission import Admission, Proof
from app.sync.chunks import next_chunk
from app.sync.empty_collection import Genesis
from app.sync.journal import (
    MERGE_REVISION,
    JournalWriter,
    SyncState,
    decode_state,
    digest,
    encode_state,
    read_body,
)
from app.sync.knownheads import KnownHeads
from app.sync.merge import Merge
from app.sync.messages import (
    APPLY_CHANGES,
    APPLY_GRAVES,
    SANITY_CHECK,
    ChangesMessage,
    ChunkMessage,
    SanityAnswer,
    SanityRequest,
    StartRequest,
    encode,
)
from storage.collection.engine.codec import Codec
from storage.collection.errors import InvalidChange
from storage.collection.records import ChunkPosition, Graves
from storage.collection.stamps import has_news
from storage.collection.unseen import Unseen
from storage.database.local.checkout import local_disk
from storage.database.origin import Kind, device_of, name_commit
from storage.database.store import Commit, DatabaseStore
from storage.errors import Conflict, NotFound, SessionLost
from storage.heads.base import NewSession, SessionUpdate
from storage.types import DatabaseId, Head, JournalEntry, Offload, Session, UserId

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""Attempts of a step, if another request of the same sync is faster each time."""

T = TypeVar("T")


def session_id(user: UserId, skey: str, key_hash: bytes = b"") -> str:
    """The id of a sync in the head record: a digest of user, session key and the host key's hash.

    So a request with the id of a running session comes from a client with the host key that started it.
    """
    return hashlib.sha256(f"{user}\0{skey}\0".encode() + key_hash).hexdigest()[:32]


def commit_id(session: str, token: int, device: str = "") -> str:
    """The name of a sync's commit. The token is in it, as a client may use a key twice."""
    return name_commit(Kind.SYNC, f"{session}-{token}", device)


@dataclass(frozen=True, slots=True)
class Sync:
    """The sync that a request belongs to, and the request's host key."""

    database: DatabaseId
    id: str
    admission: Admission

    @property
    def device(self) -> str:
        """The id of the host key."""
        return device_of(self.admission.key_hash)

    def prove(self, state: SyncState | None = None) -> Proof:
        """Check the host key, by the state of its session if given. Raises: AuthError, ServiceUnavailable."""
        if state is None:
            return self.admission.prove()
        return self.admission.prove(self.admission.key_hash, state.key_until_ms)


@dataclass(frozen=True, slots=True)
class Sessions:
    """Runs the steps of syncs. All methods raise SessionConflict if the sync is not running."""

    store: DatabaseStore
    codec: Codec
    genesis: Genesis
    offload: Offload[Any]
    clock_ms: Callable[[], int]
    known: KnownHeads = field(default_factory=KnownHeads)
    journal: JournalWriter = field(default_factory=JournalWriter)

    def start(self, sync: Sync, request: StartRequest) -> bytes:
        """Start a sync, which ends another one of the user; answers deletions that the client has not seen.

        Old clients send their own deletions with `start`; they are appended to the journal as by
        `applyGraves`.
        """
        until_ms = sync.prove().until_ms
        state = SyncState(
            request.client_usn, request.client_is_newer, key_until_ms=until_ms, device=sync.device
        )
        session = NewSession(sync.id, MERGE_REVISION, self.clock_ms(), (), encode_state(state))
        try:
            head = self.store.sessions.open(sync.database, session)
            # A new user: the steps below need a file, so the empty collection is committed. That ends the
            # session.
            if head.version == 0:
                self.genesis.make(sync.database, head)
                head = self.store.sessions.open(sync.database, session)
        except SessionLost as exc:
            raise SessionConflict("this sync has gone on since its start") from exc
        self.known.started(sync.database, head)
        answer = graves.NONE
        # Else the client has seen all rows, and the database need not be opened.
        if has_news(head.stamps, state.client_usn):
            answer = graves.to_wire(self._read(sync, head, lambda unseen: unseen.graves()))
        if request.graves is not None:
            body = encode(messages.ApplyGravesRequest(request.graves))
            self.append(sync, APPLY_GRAVES, body)
        return encode(answer)

    def append(self, sync: Sync, method: str, body: bytes) -> Head:
        """Append a message of the client to the journal; returns the head."""
        entry = self.journal.entry(method, body, self.clock_ms())
        try:
            head = self.store.sessions.append(sync.database, sync.id, entry)
        except SessionLost as exc:
            sync.prove()
            raise SessionConflict("no such sync is running") from exc
        self._session_of(sync, head)
        self.known.appended(sync.database, head)
        return head

    def apply_changes(self, sync: Sync, body: bytes) -> bytes:
        """Append the client's changes, and answer the server's; with its config if that is newer."""
        head = self.append(sync, APPLY_CHANGES, body)
        state = decode_state(self._session_of(sync, head).state)
        answer: ChangesMessage = changes.NONE
        if has_news(head.stamps, state.client_usn) or not state.client_is_newer:
            with_config = not state.client_is_newer
            ours = self._read(sync, head, lambda unseen: unseen.changes(with_config=with_config))
            answer = changes.to_wire(ours)
        return encode(answer)

    def chunk(self, sync: Sync) -> bytes:
        """Answer the next rows for the client. The position after them is written to the session first.

        The last chunk writes nothing, so that it can be requested again if its answer is lost. As no
        conditional write would detect that a cached head is outdated, and as it may lack deletions that
        another worker has appended, a cached head is used only if there are no rows to send.
        """
        known = self.known.find(sync.database, sync.id)
        # The cached head is good enough if there is nothing to send.
        if known is not None and not self._has_news(sync, known):
            return encode(ChunkMessage(done=True))
        for _ in range(ATTEMPTS):
            head = self.store.head(sync.database)
            if not self._has_news(sync, head):
                return encode(ChunkMessage(done=True))
            session = self._session_of(sync, head)
            state = decode_state(session.state)
            message, sent = self._read(sync, head, partial(next_chunk, sent=state.sent))
            # The last chunk is not noted, so that a repeated request gets it again.
            if message.done or self._note_sent(sync, session, state, sent):
                return encode(message)
        raise SessionConflict("another request of this sync is faster")

    def _has_news(self, sync: Sync, head: Head) -> bool:
        return has_news(head.stamps, decode_state(self._session_of(sync, head).state).client_usn)

    def _note_sent(self, sync: Sync, session: Session, state: SyncState, sent: ChunkPosition) -> bool:
        """Write the position of `chunk` to the session; False if it has changed since it was read."""
        update = SessionUpdate(state=encode_state(msgspec.structs.replace(state, sent=sent)))
        try:
            head = self.store.sessions.update(sync.database, session, update)
        except SessionLost:
            return False
        self.known.updated(sync.database, head)
        return True

    def _read(self, sync: Sync, head: Head, read: Callable[[Unseen], T]) -> T:
        """Call `read` with the version that the sync started with, and return its result."""
        session = self._session_of(sync, head)
        state, deleted = decode_state(session.state), self._deletions(session)
        now_s = session.started_ms // 1000
        checkout = self.store.checkout(sync.database, head)

        def work() -> T:
            with local_disk(), checkout.reading():
                return read(Unseen(checkout.connection, self.codec, state.client_usn, deleted, now_s))

        with self.store.discarding(checkout):
            try:
                result: T = self.offload(work)
            except InvalidChange as exc:
                self._end(sync, session)
                raise NotApplicable(str(exc)) from exc
        self.store.release(checkout)
        return result

    def _deletions(self, session: Session) -> Graves:
        """The client's deletions in this sync, as these rows must not be sent back to it."""
        found = Graves([], [], [])
        # An entry may also be a folded one, which may contain deletions.
        if any(entry.method != APPLY_CHANGES for entry in session.journal):
            for entry, frame in self._journal_of(session):
                if entry.method == APPLY_GRAVES:
                    deleted = messages.read_apply_graves(read_body(frame)).graves
                    found.cards.extend(deleted.cards)
                    found.notes.extend(deleted.notes)
                    found.decks.extend(deleted.decks)
        return found

    def _journal_of(self, session: Session) -> Iterator[tuple[JournalEntry, bytes]]:
        try:
            yield from self.store.sessions.read_journal(session)
        except NotFound as exc:
            raise SessionConflict("the sync was ended meanwhile") from exc

    def check(self, sync: Sync, request: SanityRequest, body: bytes) -> bytes:
        """Merge the sync, and compare the row counts; prepares the commit if they are equal.

        If they differ, the answer is `bad`, and the sync ends. Raises: NotApplicable, which also ends the
        sync.
        """
        refusal.set(NO_REFUSAL)
        checked = digest(SANITY_CHECK, body)
        for head in self._heads_of(sync):
            session = self._session_of(sync, head)
            # The same request again: its first answer was lost.
            if session.prepared is not None and session.prepared.checked == checked:
                return encode(sanity.agreed(request))
            try:
                answer = self._check(sync, head, request, checked)
            except SessionLost:
                continue  # another request was faster, or the cached head is outdated
            except NotApplicable:
                if self._is_outdated(sync, head):
                    continue
                self._end(sync, session)
                raise
            if answer.status == sanity.OK:
                return encode(answer)
            # With an outdated head the counts may differ only because messages were missing: try again.
            if not self._is_outdated(sync, head):
                log.warning("sanity check of %s failed: %s, %s", sync.database, answer.client, answer.server)
                refusal.set(Refusal("SanityCheckFailed", sanity.describe(answer)))
                self._end(sync, session)
                return encode(answer)
        raise SessionConflict("another request of this sync is faster")

    def finish(self, sync: Sync) -> bytes:
        """Commit the sync. A repeated request, whose first answer was lost, gets the same answer.

        If the client sent no sanity check, the sync is merged here.
        """
        for head in self._heads_of(sync, prepared=True):
            session = head.session
            if session is None or session.id != sync.id:
                # The session is gone, maybe because this commit was done already.
                return self._kept_answer(sync, head)
            self._session_of(sync, head)
            try:
                if session.prepared is not None:
                    after = self.store.finish(sync.database, head)
                    answer = session.prepared.answer
                    if after.token != head.token:
                        # An earlier sync under the same session key, which was committed before: the one that
                        # is asked for has begun since then, and is not in the record that is known here.
                        continue
                else:
                    answer = self._commit_unchecked(sync, head)
            except Conflict:
                continue
            except NotApplicable:
                if self._is_outdated(sync, head):
                    continue
                self._end(sync, session)
                raise
            self.known.forget(sync.database)
            return answer
        raise SessionConflict("another request of this sync is faster")

    def abort(self, sync: Sync) -> None:
        """End this sync; another sync of the user goes on."""
        sync.prove()
        session = self.store.head(sync.database).session
        if session is not None and session.id == sync.id:
            self._end(sync, session)

    def _check(self, sync: Sync, head: Head, request: SanityRequest, checked: bytes) -> SanityAnswer:
        """Merge, and prepare the commit if the counts are equal."""
        merge = self._merged(sync, head)
        with self.store.discarding(merge.checkout):
            answer = merge.check(request)
            commit = self._commit_of(sync, merge) if answer.status == sanity.OK else None
        if commit is not None:
            head = self.store.prepare(merge.checkout, head, commit, checked, executor=merge.executor)
            self.known.updated(sync.database, head)
        self.store.release(merge.checkout)
        return answer

    def _commit_unchecked(self, sync: Sync, head: Head) -> bytes:
        merge = self._merged(sync, head)
        with self.store.discarding(merge.checkout):
            commit = self._commit_of(sync, merge)
        self.store.commit(merge.checkout, head, commit, executor=merge.executor)
        self.store.release(merge.checkout)
        return commit.answer

    def _merged(self, sync: Sync, head: Head) -> Merge:
        """A checkout of the version that the sync started with, the journal merged in an open transaction."""
        session = self._session_of(sync, head)
        journal = self._journal_of(session)
        checkout = self.store.checkout(sync.database, head)
        merge = Merge(checkout, head, session, decode_state(session.state), self.codec, self.offload)
        with self.store.discarding(checkout):
            merge.run(journal)
        return merge

    def _commit_of(self, sync: Sync, merge: Merge) -> Commit:
        now_ms = self.clock_ms()
        mod_ms, stamps = merge.stamp(now_ms)
        session = merge.session
        name = commit_id(session.id, session.token, sync.device)
        # The answer to `finish` is the modification time, which the client adopts.
        return Commit(name, encode(mod_ms), now_ms, stamps, (session.id, session.seq))

    def _heads_of(self, sync: Sync, *, prepared: bool = False) -> Iterator[Head]:
        """The head for each attempt at a step: the one that this worker knows, then read ones.

        A known head is outdated if it has no prepared commit where the step needs one (`prepared`), or has
        one before that: it is then of an earlier sync under the same session key.
        """
        known = self.known.find(sync.database, sync.id)
        if (
            known is not None
            and known.session is not None
            and (known.session.prepared is not None) == prepared
        ):
            yield known
            self.known.forget(sync.database)
        for _ in range(ATTEMPTS):
            yield self.store.head(sync.database)

    def _session_of(self, sync: Sync, head: Head) -> Session:
        """The running session, if it is the one of `sync`; also checks the host key.

        Raises: AuthError, SessionConflict.
        """
        session = head.session
        if session is None or session.id != sync.id:
            sync.prove()
            raise SessionConflict("no such sync is running")
        # Another revision could merge the journal differently.
        if session.merge_revision != MERGE_REVISION:
            sync.prove()
            raise SessionConflict("the sync was begun by another revision of the server")
        sync.prove(decode_state(session.state))
        return session

    def _is_outdated(self, sync: Sync, head: Head) -> bool:
        """Whether the session has changed since the head was read; then a failure may be due to that."""
        return self.store.head(sync.database).session != head.session

    def _end(self, sync: Sync, session: Session) -> None:
        self.known.forget(sync.database)
        self.store.sessions.close(sync.database, session)

    def _kept_answer(self, sync: Sync, head: Head) -> bytes:
        sync.prove()
        name = commit_id(sync.id, head.token, sync.device)
        for recent in head.recent:
            if recent.commit_id == name:
                return recent.answer
        raise SessionConflict("no such sync is running")
