"""The life of a running sync: begun, carried on by any worker, ended by a commit or not at all.

A sync is one open transaction on this worker's copy, and a journal in the head record that has all
its requests. Whoever finds the journal longer than its own transaction drops that, and does the
journal again. The store's conditions decide who may write; no lock is held between two requests.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from app.errors import NotApplicable, SessionConflict
from app.sync import finish, journal, sanity
from app.sync.genesis import Genesis
from app.sync.journal import MERGE_REVISION, ReplayDiffers, take_step
from app.sync.messages import SanityRequest, StartRequest, encode
from app.sync.methods import Step, SyncMethod
from app.sync.slots import LiveSession, Slot
from app.sync.state import SyncState
from storage.collection.codec import Codec
from storage.collection.collection import Collection
from storage.collection.errors import InvalidChange
from storage.database.checkout import Checkout, TookLong, local_disk
from storage.database.store import Commit, DatabaseStore
from storage.errors import Conflict, NotFound, SessionLost
from storage.heads.base import NewSession
from storage.packing import Packer
from storage.types import DatabaseId, Head, JournalEntry, Offload, UserId, run_here

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""How often a request catches up with other workers that serve the same sync just then."""

SHORT_BYTES = 16 * 1024
"""A request of so many bytes has about a hundred rows, which are merged in less time than a native
thread takes to run and hand back the interpreter: it is done where it is."""

T = TypeVar("T")


def session_id(user: UserId, skey: str) -> str:
    """The key that a client made up for one sync, as it stands in the head record."""
    return hashlib.sha256(f"{user}\0{skey}".encode()).hexdigest()[:32]


def commit_id(session: str, token: int) -> str:
    """The name of a sync's commit. The token is in it, for a client may use a key twice.

    16 characters, as every commit id has: a head record holds some thirty of them.
    """
    return hashlib.sha256(f"{session}-{token}".encode()).hexdigest()[:16]


class Replayed(NamedTuple):
    """The last request that was done again, and the answer that it had."""

    last: JournalEntry
    answer: bytes

    def is_of(self, method: str, body: bytes) -> bool:
        """Whether it was this request: its answer was lost, and the client asks again."""
        return self.last.digest == journal.digest(method, body)


@dataclass(frozen=True, slots=True)
class Call:
    """Whose sync a request is for, and the slot it has entered."""

    database: DatabaseId
    slot: Slot
    session: str

    @property
    def live(self) -> LiveSession | None:
        """The sync, if this worker has it at hand."""
        live = self.slot.live
        return live if live is not None and live.id == self.session else None

    def take(self) -> LiveSession | None:
        """Empty the slot."""
        live, self.slot.live = self.slot.live, None
        return live


@dataclass(frozen=True, slots=True)
class Sessions:
    """Begins, carries on and ends syncs."""

    store: DatabaseStore
    codec: Codec
    genesis: Genesis
    offload: Offload[Any]
    clock_ms: Callable[[], int]
    packer: Packer = field(default_factory=partial(Packer, journal.COMPRESSION_LEVEL))

    def start(self, call: Call, request: StartRequest, body: bytes) -> bytes:
        """Take the database over from whatever sync is running, and do the first step."""
        self.drop(call.slot)
        now_ms = self.clock_ms()
        first = journal.write_entry(SyncMethod.START, body, now_ms, None, self.packer)
        session = NewSession(call.session, MERGE_REVISION, now_ms, first)
        head = self.store.open_session(call.database, session)
        if head.version == 0:
            self.genesis.make(call.database, head)
            head = self.store.open_session(call.database, session)
        live = self._check_out(call, head, seq=1)

        if len(body) <= SHORT_BYTES:
            answer = self._do(call, partial(_start_briefly, live, request, now_ms), run_here)
            if answer is not None:
                return answer
        live.state, live.is_short = self._state_of(live.checkout, head), False
        return self._do(call, partial(_start, live, request, now_ms), self.offload)

    def advance(self, call: Call, step: Step, request: object, body: bytes) -> bytes:
        """Do one step and journal it; what was answered is never lost.

        Raises: SessionConflict; NotApplicable, and the sync is over.
        """
        for _ in range(ATTEMPTS):
            live, replayed = self._catch_up(call)
            if live is None:
                live, replayed = self._resume(call)
            if replayed is not None and step.is_repeatable and replayed.is_of(step.method, body):
                return replayed.answer
            work = partial(_advance, live, step, request, body, self.clock_ms(), self.packer)
            try:
                answer, entry = self._do(call, work, self._way_of(live, body))
            except _Behind:
                continue
            if self._append(call, live, entry):
                return answer
        raise SessionConflict("too many workers serve this sync at once")

    def _append(self, call: Call, live: LiveSession, entry: JournalEntry) -> bool:
        """False if the sync here is not the one in the head, or behind it; it is then dropped."""
        try:
            self.store.append(call.database, live.token, live.id, live.seq, entry)
        except SessionLost:
            self.drop(call.slot)
            return False
        except BaseException:
            self.drop(call.slot)
            raise
        live.seq += 1
        return True

    def check(self, call: Call, request: SanityRequest) -> bytes:
        """Compare the counts, on a copy that has all of the sync. `bad` ends it at once."""
        live, _ = self._catch_up(call, always=True)
        if live is None:
            live, _ = self._resume(call)
        way = run_here if sanity.is_equal_at_once(request, live.state) else self.offload
        answer = self._do(call, partial(sanity.sanity_check, request, live.state), way)
        if answer.status == sanity.BAD:
            log.warning("sanity check of %s failed: %s, %s", call.database, answer.client, answer.server)
            self._end(call)
        return encode(answer)

    def finish(self, call: Call) -> bytes:
        """Commit the sync. Asked again after its answer was lost, give the same answer."""
        for _ in range(ATTEMPTS):
            live, _ = self._catch_up(call)
            if live is None:
                head = self.store.head(call.database)
                kept = _find_answer(head, commit_id(call.session, head.token))
                if kept is not None:
                    return kept
                live, _ = self._resume(call, head)
            answer = self._commit(call, live)
            if answer is not None:
                return answer
        raise SessionConflict("too many workers serve this sync at once")

    def _commit(self, call: Call, live: LiveSession) -> bytes | None:
        """The answer; None if the sync here is not the one in the head, or behind it."""
        mod_ms, stamps = self._do(call, partial(_finish, live, self.clock_ms()), run_here)
        answer = encode(mod_ms)
        commit = Commit(commit_id(live.id, live.token), answer, mod_ms, stamps, (live.id, live.seq))
        call.take()  # a commit that fails takes the copy with it
        try:
            way = run_here if live.is_short else self.offload
            head = self.store.commit(live.checkout, live.head, commit, way=way)
        except Conflict:
            return None
        self.store.release(live.checkout)
        # A commit of that name may be older than a second sync under the same key, which this is about.
        return answer if head.token == live.token else None

    def abort(self, call: Call) -> None:
        """End the caller's sync; anybody else's goes on."""
        if call.live is not None:
            self._end(call)
            return
        session = self.store.head(call.database).session
        if session is not None and session.id == call.session:
            self.store.close_session(call.database, session.token, session.id)

    def drop(self, slot: Slot) -> None:
        """Forget this worker's part of a sync. Its journal stays, so the sync may go on."""
        live, slot.live = slot.live, None
        if live is not None:
            self.store.release(live.checkout)

    def _end(self, call: Call) -> None:
        live = call.take()
        if live is not None:
            self.store.release(live.checkout)
            self.store.close_session(call.database, live.token, live.id)

    def _is_current(self, call: Call, live: LiveSession) -> bool:
        session = self.store.head(call.database).session
        return session is not None and session.token == live.token and session.seq == live.seq

    def _check_out(self, call: Call, head: Head, seq: int) -> LiveSession:
        """Fill the slot with a copy of the head's version."""
        checkout = self.store.checkout(call.database, head)
        try:
            state = self._state_of(checkout, head)
        except BaseException:
            self.store.discard(checkout)
            raise
        live = call.slot.live = LiveSession(call.session, head, seq, checkout, state)
        return live

    def _state_of(self, checkout: Checkout, head: Head) -> SyncState:
        return SyncState(Collection(checkout.connection, self.codec, head.stamps))

    def _resume(self, call: Call, head: Head | None = None) -> tuple[LiveSession, Replayed]:
        """Do the journal of a sync again here."""
        self.drop(call.slot)
        head = head or self.store.head(call.database)
        session = head.session
        if session is None or session.id != call.session:
            raise SessionConflict("no such sync is running")
        if session.merge_revision != MERGE_REVISION or session.base_version != head.version:
            raise SessionConflict("the sync was begun by another revision of the server")
        entries = self._with_bodies(call, session.journal)
        live = self._check_out(call, head, session.seq)
        live.is_short, live.has_travelled = False, True

        def work() -> bytes:
            live.checkout.begin()
            return journal.replay(entries, live.state)

        return live, Replayed(session.journal[-1], self._do(call, work, self.offload))

    def _catch_up(self, call: Call, *, always: bool = False) -> tuple[LiveSession | None, Replayed | None]:
        """The sync at hand, with what other workers have journalled since; None where it cannot go on.

        A sync that only this worker has served is not looked after, unless `always`: the next write tells
        whether it still is alone. One that travels is asked for first, since a step that is done
        too early cannot be taken back, and would cost a replay of the whole journal.
        """
        live = call.live
        if live is None or not (always or live.has_travelled):
            return live, None
        session = self.store.head(call.database).session
        if session is None or session.token != live.token:
            self.drop(call.slot)
            return None, None
        missing = session.journal[live.seq :]
        if not missing:
            return live, None
        entries = self._with_bodies(call, missing)
        live.seq, live.is_short, live.has_travelled = session.seq, False, True
        answer = self._do(call, partial(journal.replay, entries, live.state), self.offload)
        return live, Replayed(missing[-1], answer)

    def _with_bodies(self, call: Call, entries: Iterable[JournalEntry]) -> list[tuple[JournalEntry, bytes]]:
        try:
            return [(entry, self.store.read_body(call.database, entry)) for entry in entries]
        except NotFound as exc:
            raise SessionConflict("the sync was ended meanwhile") from exc

    def _way_of(self, live: LiveSession, body: bytes) -> Offload[Any]:
        """Where a step is done: here if it is short, whatever the collection's size, else in a thread."""
        if live.state.has_little_to_send and len(body) <= SHORT_BYTES:
            return run_here
        live.is_short = False
        return self.offload

    def _do(self, call: Call, work: Callable[[], T], way: Offload[Any]) -> T:
        """Run SQL of the slot's sync; when it fails, the sync is over.

        Unless other workers have carried the sync on: a step may fail here for want of theirs.
        Raises: _Behind.
        """
        try:
            with local_disk():
                result: T = way(work)
        except InvalidChange as exc:
            live = call.live
            if live is not None and not self._is_current(call, live):
                self.drop(call.slot)
                raise _Behind from exc
            self._end(call)
            raise NotApplicable(str(exc)) from exc
        except ReplayDiffers as exc:
            log.error("replay differs for %s: %s", call.database, exc)  # noqa: TRY400 - the place is known
            self._end(call)
            raise SessionConflict("the sync cannot be carried on") from exc
        except BaseException:
            live = call.take()
            if live is not None:
                self.store.discard(live.checkout)
            raise
        return result


class _Behind(Exception):
    """Other workers have gone on with the sync: what this one has of it says nothing."""


def _start(live: LiveSession, request: StartRequest, now_ms: int) -> bytes:
    live.checkout.begin()
    return take_step(SyncMethod.START, request, live.state, now_ms)


def _start_briefly(live: LiveSession, request: StartRequest, now_ms: int) -> bytes | None:
    """The answer; None, and nothing done, where there is much to do: it is the first sync of a day."""
    try:
        with live.checkout.briefly():
            return _start(live, request, now_ms)
    except TookLong:
        live.checkout.rollback()
        return None


def _advance(  # noqa: PLR0913, PLR0917 - bound by name of the step
    live: LiveSession, step: Step, request: object, body: bytes, now_ms: int, packer: Packer
) -> tuple[bytes, JournalEntry]:
    answer = take_step(step.method, request, live.state, now_ms)
    return answer, journal.write_entry(step.method, body, now_ms, answer, packer)


def _finish(live: LiveSession, now_ms: int) -> tuple[int, dict[str, int | bool]]:
    live.state.now_ms = now_ms
    mod_ms = finish.finish(live.state)
    return mod_ms, live.state.collection.stamps()


def _find_answer(head: Head, commit: str) -> bytes | None:
    return next((recent.answer for recent in head.recent if recent.commit_id == commit), None)
