"""The rules of a head record, as pure functions from a head and a request to the next head.

All backends use them, so that the rules exist once. The session of a head is in one of three states:

                  open_session                  update_session(prepared=...)
    no session ----------------> journal open ------------------------------> prepared
        ^                         | ^    ^ | append, update_session             |  |
        |     close_session       | |    +-+                                    |  |
        +-------------------------+ +------------ append, update_session -------+  |
        |                                     (the prepared commit is dropped)     |
        +---- flip with the session's id, close_session ---------------------------+

Each write to a session adds 1 to its `seq`.
From any state: `open_session` replaces the session, with token + 1; a head update without a session id ends
it, with token + 1; `replace_chain` changes neither session nor token.

If several conditions fail at once, the first of this list is raised:

1. a head update that was applied before is no failure: the head is returned as it is;
2. with a session, `SessionLost`: no session runs, or another one does, or the token differs;
3. `HeadMoved`: version, token or chain revision differ;
4. with a session, `SessionAhead`: only `seq` differs.

A request that is invalid for any head raises `ValueError` before all others.

After a write with an unknown outcome a backend reads the record and finds out with `has_opened`,
`has_appended`, `has_updated`, `was_applied` or `has_replaced` whether the write was applied.
"""

from __future__ import annotations

from msgspec.structs import replace

from storage.errors import HeadMoved, SessionAhead, SessionLost
from storage.heads.base import RECENT_KEPT, HeadUpdate, NewSession, SessionUpdate
from storage.types import EMPTY_HEAD, ChainEntry, EntryKind, Head, JournalEntry, Recent, Session


def open_session(head: Head | None, new: NewSession) -> Head:
    """The head with a new session in place of any older one. Raises: SessionLost."""
    head = head or EMPTY_HEAD
    running = head.session
    if running is not None and running.id == new.id and running.seq > len(new.journal):
        raise SessionLost(f"session {new.id} has gone on since its start")
    token = head.token + 1
    session = Session(
        new.id, token, head.version, len(new.journal), new.merge_revision, new.started_ms, new.journal,
        new.state,
    )  # fmt: skip
    return replace(head, token=token, session=session)


def has_opened(head: Head | None, new: NewSession) -> bool:
    """Whether the running session is this one, as it is right after its start."""
    session = head.session if head else None
    return session is not None and (session.id, session.seq, session.started_ms) == (
        new.id,
        len(new.journal),
        new.started_ms,
    )


def append(head: Head | None, session_id: str, entry: JournalEntry) -> Head:
    """The head with one more journal entry. A prepared commit is dropped, as it lacks the entry.

    Raises: SessionLost.
    """
    session = head.session if head else None
    if head is None or session is None or session.id != session_id:
        raise SessionLost(f"no session {session_id}")
    journal = (*session.journal, entry)
    return replace(head, session=replace(session, seq=session.seq + 1, journal=journal, prepared=None))


def update_session(head: Head | None, token: int, session_id: str, seq: int, update: SessionUpdate) -> Head:
    """The head with parts of its session replaced. Raises: SessionLost, SessionAhead."""
    head, session = _running(head, token, session_id)
    _check_seq(session, seq)
    return replace(head, session=_updated(session, update))


def _updated(session: Session, update: SessionUpdate) -> Session:
    return replace(
        session,
        seq=session.seq + 1,
        state=session.state if update.state is None else update.state,
        journal=session.journal if update.journal is None else update.journal,
        prepared=update.prepared,
    )


def close_session(head: Head | None, token: int, session_id: str) -> Head | None:
    """The head without the session; None if this session is not running."""
    try:
        head, _ = _running(head, token, session_id)
    except SessionLost:
        return None
    return replace(head, session=None)


def advance_head(head: Head | None, request: HeadUpdate) -> Head:
    """The head at its next version, or the same head if this head update was applied before.

    Raises: SessionLost, HeadMoved, SessionAhead.
    """
    check_head_update(request)
    head = head or EMPTY_HEAD
    if was_applied(head, request):
        return head
    _check_guard(head, request)
    entry = request.entry
    # The answer is kept for a client that repeats `finish`.
    recent = (*head.recent, Recent(request.commit_id, request.answer, request.time_ms))
    return Head(
        version=head.version + 1,
        token=head.token if request.session_id is not None else head.token + 1,
        chain_revision=head.chain_revision + 1,
        page_size=entry.page_size,
        page_count=entry.page_count,
        checksum=entry.checksum,
        stamps=request.stamps,
        chain=(entry,) if entry.kind is EntryKind.SNAPSHOT else (*head.chain, entry),
        recent=recent[-RECENT_KEPT:],
        session=None,
    )


def was_applied(head: Head | None, request: HeadUpdate) -> bool:
    """Whether version `base_version + 1` exists and was made by this head update.

    A commit id may be used again, since clients choose the session key; so only the commit that made this
    version counts. Every version adds one `Recent`, so its index follows from the version:

        version  8 (head), recent = [1, 2, ..., 8];  base_version 5  ->  version 6 is recent[8 - (8 - 5)]

    If it is so old that it is not in `recent` any more, the chain has its id until the next compaction.
    """
    if head is None or head.version <= request.base_version:
        return False
    # See the docstring: the index of version `base_version + 1` in `recent`.
    place = len(head.recent) - (head.version - request.base_version)
    if place >= 0:
        return head.recent[place].commit_id == request.commit_id
    # Older than all in `recent`: compaction keeps only the last id of an entry, so this may not find it.
    made = request.base_version + 1
    return any(e.first <= made <= e.last and request.commit_id in e.commit_ids for e in head.chain)


def has_appended(head: Head | None, session_id: str, entry: JournalEntry) -> bool:
    """Whether the running session is this one and has this entry."""
    session = head.session if head else None
    return session is not None and session.id == session_id and entry in session.journal


def has_updated(head: Head | None, token: int, session_id: str, seq: int, update: SessionUpdate) -> bool:
    """Whether the running session is this one as it is right after this update."""
    try:
        _, session = _running(head, token, session_id)
    except SessionLost:
        return False
    return session.seq == seq + 1 and session == replace(_updated(session, update), seq=session.seq)


def has_replaced(head: Head | None, token: int, chain_revision: int, chain: tuple[ChainEntry, ...]) -> bool:
    """Whether the head has this chain, by one replacement of that revision's."""
    wanted = (token, chain_revision + 1, chain)
    return head is not None and (head.token, head.chain_revision, head.chain) == wanted


def replace_chain(head: Head | None, token: int, chain_revision: int, chain: tuple[ChainEntry, ...]) -> Head:
    """The head with another chain to the same version. Raises: HeadMoved, ValueError."""
    reached = check_chain(chain)
    if head is None or (head.token, head.chain_revision) != (token, chain_revision):
        raise HeadMoved(f"chain revision {chain_revision} under token {token} is not the head's")
    if reached != head.version:
        raise ValueError(f"the chain leads to version {reached}, not {head.version}")
    return replace(head, chain_revision=chain_revision + 1, chain=chain)


def replace_head(head: Head | None, found: Head | None, new: Head) -> Head:
    """The record made anew, in the place of `found`. Raises: HeadMoved."""
    if head == new:
        return head
    if new.session is not None or check_chain(new.chain) != new.version:
        raise ValueError("a record made anew has a chain to its version, and no session")
    if _place_of(head) != _place_of(found):
        raise HeadMoved("the record is not the one that was read")
    return new


def _place_of(head: Head | None) -> tuple[int, int, int] | None:
    return None if head is None else (head.version, head.token, head.chain_revision)


def changed_since(head: Head, since_ms: int) -> bool:
    """Whether the last commit was at that time or later."""
    return bool(head.chain) and head.chain[-1].time_ms >= since_ms


def check_head_update(request: HeadUpdate) -> None:
    """Raises: ValueError if the entry does not follow `base_version`, which is a mistake of the caller."""
    entry, version = request.entry, request.base_version + 1
    if entry.last != version:
        raise ValueError(f"the entry leads to version {entry.last}, not {version}")
    _check_link(entry, request.base_version)


def check_chain(chain: tuple[ChainEntry, ...]) -> int:
    """The version that a chain leads to. Raises: ValueError if an entry does not follow the one before it."""
    reached = 0
    for place, entry in enumerate(chain):
        if (place == 0) != (entry.kind is EntryKind.SNAPSHOT):
            raise ValueError("a chain is a snapshot, then deltas")
        _check_link(entry, reached)
        reached = entry.last
    return reached


def _check_link(entry: ChainEntry, reached: int) -> None:
    if entry.kind is EntryKind.SNAPSHOT:
        if entry.first != entry.last:
            raise ValueError(f"a snapshot is of one version, not of {entry.first} to {entry.last}")
    elif reached == 0:
        raise ValueError("a chain begins with a snapshot")
    elif not entry.first <= reached + 1 <= entry.last:
        raise ValueError(f"delta {entry.first}-{entry.last} does not follow version {reached}")


def _running(head: Head | None, token: int, session_id: str) -> tuple[Head, Session]:
    session = head.session if head else None
    if head is None or session is None or session.id != session_id or head.token != token:
        raise SessionLost(f"no session {session_id} under token {token}")
    return head, session


def _check_seq(session: Session, seq: int) -> None:
    if session.seq != seq:
        raise SessionAhead(f"session {session.id} is at {session.seq}, not {seq}")


def _check_guard(head: Head, request: HeadUpdate) -> None:
    session = None
    if request.session_id is not None:
        _, session = _running(head, request.token, request.session_id)
    if (head.version, head.token) != (request.base_version, request.token):
        raise HeadMoved(
            f"head is at version {head.version} under token {head.token}, "
            f"not {request.base_version} under {request.token}"
        )
    if session is not None:
        _check_seq(session, request.seq)
