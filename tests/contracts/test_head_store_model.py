"""Head stores against a model in plain Python: any sequence of requests, also stale and repeated ones."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from storage.errors import Conflict, HeadMoved, SessionAhead, SessionLost
from storage.heads.base import SessionUpdate
from storage.types import ChainEntry, DatabaseId, Prepared
from tests.support.records import (
    collection_of,
    head_update_of,
    journal_entry,
    media_of,
    new_session,
    prepared_of,
    snapshot,
)


class Model:
    """A record as a few plain values; written from the port's text, not from the transitions."""

    def __init__(self) -> None:
        self.version = self.token = self.revision = 0
        self.chain: list[ChainEntry] = []
        self.made_by: dict[int, str] = {}
        self.session: str | None = None
        self.journal: list[bytes] = []
        self.seq = 0
        self.prepared: Prepared | None = None

    def open(self, session: str) -> None:
        if self.session == session and self.seq > 1:
            raise SessionLost
        self.token += 1
        self.session, self.journal, self.seq, self.prepared = session, [b"start"], 1, None

    def check_session(self, token: int, session: str) -> None:
        if self.session is None or self.session != session or self.token != token:
            raise SessionLost

    def append(self, session: str, body: bytes) -> None:
        self.check_session(self.token, session)
        self.journal.append(body)
        self.seq += 1
        self.prepared = None

    def update(self, token: int, session: str, seq: int, prepared: Prepared | None) -> None:
        self.check_session(token, session)
        if self.seq != seq:
            raise SessionAhead
        self.seq += 1
        self.prepared = prepared

    def close(self, token: int, session: str) -> bool:
        try:
            self.check_session(token, session)
        except SessionLost:
            return False
        self.session, self.journal = None, []
        return True

    def advance_head(self, request) -> None:
        if self.knows(request.base_version + 1, request.commit_id):
            return
        if request.session_id is not None:
            self.check_session(request.token, request.session_id)
        if (self.version, self.token) != (request.base_version, request.token):
            raise HeadMoved
        if request.session_id is None:
            self.token += 1
        elif self.seq != request.seq:
            raise SessionAhead
        self.version += 1
        self.revision += 1
        self.made_by[self.version] = request.commit_id
        if request.entry.kind == "s":
            self.chain = []
        self.chain.append(request.entry)
        self.session, self.journal = None, []

    def knows(self, version: int, commit_id: str) -> bool:
        """Whether the record still tells who made a version, and it was this commit."""
        told = self.version - 8 < version <= self.version
        told = told or any(e.first <= version <= e.last and commit_id in e.commit_ids for e in self.chain)
        return told and self.made_by.get(version) == commit_id

    def replace(self, token: int, revision: int, chain: tuple[ChainEntry, ...]) -> None:
        if (self.token, self.revision) != (token, revision):
            raise HeadMoved
        self.revision += 1
        self.chain = list(chain)


SESSIONS = st.sampled_from(["one", "two", "three"])
OFF = st.sampled_from([0, 0, 0, 0, -1, 1])
DATABASES = st.integers(0, 1)


class HeadStoreMachine(RuleBasedStateMachine):
    def __init__(self, stores) -> None:
        super().__init__()
        self.stores = stores
        user = f"m-{uuid.uuid4().hex}"
        self.databases = [collection_of(user), media_of(user)]
        self.models: dict[DatabaseId, Model] = {}
        self.turn = 0
        self.updates = []

    def any_store(self):
        self.turn += 1
        return self.stores[self.turn % len(self.stores)]

    def pick(self, number: int) -> tuple[DatabaseId, Model]:
        database = self.databases[number]
        return database, self.models.get(database) or Model()

    def both(self, database, model, of_model, of_store):
        """The same outcome from both: an answer or the same class of error."""
        try:
            expected = of_model()
        except Conflict as exc:
            with pytest.raises(Conflict) as caught:
                of_store()
            assert type(caught.value) is type(exc)  # noqa: PT017  of the model
            return None
        self.models[database] = model
        return expected, of_store()

    @rule(number=DATABASES, session=SESSIONS)
    def open_session(self, number, session):
        database, model = self.pick(number)
        done = self.both(
            database,
            model,
            lambda: model.open(session),
            lambda: self.any_store().open_session(database, new_session(session)),
        )
        if done:
            assert (done[1].token, done[1].session.id) == (model.token, session)

    @rule(number=DATABASES, session=SESSIONS, body=st.binary(max_size=40))
    def append(self, number, session, body):
        database, model = self.pick(number)
        self.both(
            database,
            model,
            lambda: model.append(session, body),
            lambda: self.any_store().append(database, session, journal_entry(body=body)),
        )

    @rule(number=DATABASES, session=SESSIONS, token_off=OFF, seq_off=OFF, prepares=st.booleans())
    def update_session(self, number, session, token_off, seq_off, prepares):
        database, model = self.pick(number)
        args = (model.token + token_off, session, model.seq + seq_off)
        prepared = prepared_of(model.version + 1) if prepares else None
        self.both(
            database,
            model,
            lambda: model.update(*args, prepared),
            lambda: self.any_store().update_session(database, *args, SessionUpdate(prepared=prepared)),
        )

    @rule(number=DATABASES, session=SESSIONS, token_off=OFF)
    def close_session(self, number, session, token_off):
        database, model = self.pick(number)
        args = (model.token + token_off, session)
        before = self.models.get(database)
        expected, answer = self.both(
            database,
            model,
            lambda: model.close(*args),
            lambda: self.any_store().close_session(database, *args),
        )
        assert expected == answer
        if before is None:
            del self.models[database]

    @rule(
        number=DATABASES,
        with_session=st.booleans(),
        token_off=OFF,
        base_off=OFF,
        seq_off=OFF,
        whole=st.booleans(),
    )
    def advance_head(self, number, with_session, token_off, base_off, seq_off, whole):
        _, model = self.pick(number)
        base = max(0, model.version + base_off)
        commit_id = model.session if with_session and model.session else f"c{len(self.updates)}"
        request = head_update_of(
            base,
            model.token + token_off,
            session=commit_id if with_session else None,
            seq=model.seq + seq_off,
            commit_id=commit_id,
            entry=snapshot(base + 1, commit_id=commit_id) if whole else None,
        )
        self.updates.append((number, request))
        self._head_update(number, request)

    @rule(which=st.integers(0, 1000))
    def repeat_a_head_update(self, which):
        if self.updates:
            self._head_update(*self.updates[which % len(self.updates)])

    def _head_update(self, number, request):
        database, model = self.pick(number)
        done = self.both(
            database,
            model,
            lambda: model.advance_head(request),
            lambda: self.any_store().advance_head(database, request),
        )
        if done:
            head = done[1]
            assert (head.version, head.token) == (model.version, model.token)

    @rule(number=DATABASES, token_off=OFF, revision_off=OFF)
    def replace_chain(self, number, token_off, revision_off):
        database, model = self.pick(number)
        if model.version == 0:
            return
        chain = (snapshot(model.version, commit_id=model.made_by[model.version]),)
        args = (model.token + token_off, model.revision + revision_off, chain)
        self.both(
            database,
            model,
            lambda: model.replace(*args),
            lambda: self.any_store().replace_chain(database, *args),
        )

    @rule(number=DATABASES)
    def delete(self, number):
        database, _ = self.pick(number)
        self.models.pop(database, None)
        self.any_store().delete(database)

    @invariant()
    def records_are_as_the_model_says(self):
        for database in self.databases:
            head = self.any_store().find(database)
            model = self.models.get(database)
            if model is None:
                assert head is None
                continue
            assert (head.version, head.token, head.chain_revision) == (
                model.version,
                model.token,
                model.revision,
            )
            assert list(head.chain) == model.chain
            kept = range(max(1, model.version - 7), model.version + 1)
            assert [recent.commit_id for recent in head.recent] == [model.made_by[v] for v in kept]
            assert (head.session.id if head.session else None) == model.session
            if head.session:
                assert (head.session.seq, head.session.prepared) == (model.seq, model.prepared)
                assert [entry.body for entry in head.session.journal[1:]] == model.journal[1:]

    @invariant()
    def the_listing_is_as_the_model_says(self):
        listed = list(self.any_store().list(self.databases[0].user))
        assert listed == sorted(self.models)


def test_any_sequence_of_requests_leaves_what_the_model_says(head_backend):
    stores = [head_backend.open(), head_backend.open()]
    run_state_machine_as_test(
        lambda: HeadStoreMachine(stores),
        settings=settings(
            max_examples=4 if head_backend.WIRED else 60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
