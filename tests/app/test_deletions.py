"""An account whose user wants it deleted: seven days, then all of it, however often that breaks off."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from app.auth.hostkeys import KeyKind
from app.config import Settings
from app.deletions import Deletions
from app.errors import AuthError
from app.main import Accounts, Stores, build_accounts, build_collections, build_stores
from storage.errors import Unavailable
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline
from tests.support.past import make_collection

DAY_MS = 24 * 3_600_000


class Clock:
    now_ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now_ms


@dataclasses.dataclass
class Place:
    accounts: Accounts
    stores: Stores
    clock: Clock
    deletions: Deletions

    def holds(self, user: UserId) -> bool:
        return self.stores.databases.head(DatabaseId(user, DatabaseKind.COLLECTION)).version > 0

    def log_in(self, name: str) -> str:
        return self.accounts.authenticator.login(name, "secret", "192.0.2.1")


@pytest.fixture
def place(tmp_path) -> Iterator[Place]:
    settings = Settings.from_env({"ANKISYNCD_DATA_ROOT": str(tmp_path / "data"), "SYNC_USER1": "eve:secret"})
    clock = Clock()
    accounts = build_accounts(settings, None, offload=run_inline, clock_ms=clock)
    stores = build_stores(settings, None, offload=run_inline, clock_ms=clock)
    collections = build_collections(settings, stores, offload=run_inline)
    accounts.users.add("ann", "secret")
    accounts.users.add("bob", "secret")
    for user in accounts.users.list():
        path = make_collection(tmp_path / f"{user.name}.anki2", [user.name])
        assert collections.upload(user.id, path) == "OK"
    yield Place(accounts, stores, clock, Deletions(accounts.keys, accounts.users, stores.databases, clock))
    stores.close()


def id_of(place: Place, name: str) -> UserId:
    found = place.accounts.users.find(name)
    assert found is not None
    return found.id


def test_nothing_is_deleted_before_seven_days_have_passed(place):
    ann = id_of(place, "ann")
    place.deletions.ask(ann)
    assert place.deletions.due_ms(ann) == place.clock.now_ms + 7 * DAY_MS
    place.clock.now_ms += 7 * DAY_MS - 1
    place.deletions.carry_out()
    assert place.holds(ann)
    assert place.log_in("ann")


def test_then_data_logins_and_the_user_are_gone_and_others_are_not(place):
    ann, bob = id_of(place, "ann"), id_of(place, "bob")
    key = place.log_in("ann")
    place.deletions.ask(ann)
    place.clock.now_ms += 7 * DAY_MS
    place.deletions.carry_out()
    assert not place.holds(ann)
    assert place.accounts.users.find("ann") is None
    assert list(place.accounts.keys.list(ann)) == []
    with pytest.raises(AuthError):
        place.accounts.authenticator.authenticate(key)
    assert place.holds(bob)
    assert place.log_in("bob")


def test_a_wish_can_be_taken_back(place):
    ann = id_of(place, "ann")
    place.deletions.ask(ann)
    place.deletions.take_back(ann)
    place.clock.now_ms += 30 * DAY_MS
    place.deletions.carry_out()
    assert place.deletions.due_ms(ann) is None
    assert place.holds(ann)


def test_asking_again_does_not_move_the_day(place):
    ann = id_of(place, "ann")
    place.deletions.ask(ann)
    due_ms = place.deletions.due_ms(ann)
    place.clock.now_ms += DAY_MS
    place.deletions.ask(ann)
    assert place.deletions.due_ms(ann) == due_ms


def test_the_login_of_the_environment_stays_and_its_data_goes(place):
    eve = id_of(place, "eve")
    place.deletions.ask(eve)
    place.clock.now_ms += 7 * DAY_MS
    place.deletions.carry_out()
    assert not place.holds(eve)
    assert place.deletions.due_ms(eve) is None
    assert place.log_in("eve")


def test_a_deletion_that_breaks_off_goes_on_at_the_next_run(place, monkeypatch):
    ann = id_of(place, "ann")
    place.deletions.ask(ann)
    place.clock.now_ms += 7 * DAY_MS
    with monkeypatch.context() as patch:

        def fail(_database: DatabaseId) -> None:
            raise Unavailable("the store is away")

        patch.setattr(type(place.stores.databases), "erase", lambda _self, database: fail(database))
        place.deletions.carry_out()
    assert place.holds(ann)
    place.deletions.carry_out()
    assert not place.holds(ann)
    assert place.accounts.users.find("ann") is None


def test_the_note_of_a_wish_lets_nobody_in(place):
    ann = id_of(place, "ann")
    place.deletions.ask(ann)
    (note,) = (record for record in place.accounts.keys.list(ann) if record.kind is KeyKind.DELETION)
    for key in (str(ann), f"x.{ann}", note.hash.hex()):
        assert place.accounts.authenticator.find_session(key) is None
        with pytest.raises(AuthError):
            place.accounts.authenticator.authenticate(key)
