"""Passwords in, keys out, on the users' file, with a clock turned by hand."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest

from app.auth.authenticator import Authenticator, KeyProof
from app.auth.hostkeys import KeyRecord, claimed_user, hash_of, new_key, seal
from app.auth.key_cache import KeyCache
from app.auth.local.environment import EnvironmentUsers
from app.auth.users import CannotConfirm, Identity
from app.errors import AuthError, RateLimited, ServiceUnavailable
from storage.types import UserId

ROOT = Path(__file__).parents[3]
MINUTE_MS = 60_000


def test_a_right_password_gives_a_key_that_names_the_user(server):
    alice = server.users.add("alice", "secret")
    key = server.login("alice", "secret")
    assert server.door.authenticate(key) == alice.id


@pytest.mark.parametrize(
    ("name", "password"), [("alice", "wrong"), ("nobody", "secret"), ("Alice", "secret"), ("", "")]
)
def test_anything_else_is_refused(server, name, password):
    server.users.add("alice", "secret")
    with pytest.raises(AuthError):
        server.login(name, password)


@pytest.mark.parametrize("key", ["", "x", "\ud800", "a" * 100_000])
def test_a_made_up_key_is_refused(server, key):
    with pytest.raises(AuthError):
        server.door.authenticate(key)


@pytest.mark.parametrize(
    ("name", "password"), [("\ud800", "x"), ("alice", "\ud800"), ("a" * 5000, "x"), ("alice", "\0")]
)
def test_strange_input_is_a_wrong_password(server, name, password):
    server.users.add("alice", "secret")
    with pytest.raises(AuthError):
        server.login(name, password)


def test_each_login_has_a_key_of_its_own_and_the_older_one_lives_on(server):
    server.users.add("alice", "secret")
    first, second = server.login("alice", "secret"), server.login("alice", "secret")
    assert first != second
    assert server.door.authenticate(first) == server.door.authenticate(second)


def test_names_and_passwords_may_be_typed_in_either_normal_form(server):
    server.users.add("Zoë", "pässword")
    key = server.login("Zoe\u0308", "pa\u0308ssword")
    assert server.door.authenticate(key) == server.users.find("Zoë").id


def test_the_file_holds_neither_key_nor_password(server, tmp_path):
    server.users.add("alice", "a-secret-word")
    key = server.login("alice", "a-secret-word")
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert hash_of(key) in stored
    assert key.encode() not in stored
    assert b"a-secret-word" not in stored


def test_the_file_is_readable_by_its_owner_only(server, tmp_path):
    server.users.add("alice", "secret")
    server.login("alice", "secret")
    modes = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir() if "lock" not in path.name}
    assert modes
    assert not any(modes.values())


def test_a_changed_password_ends_all_keys_at_once(server):
    server.users.add("alice", "old")
    key = server.login("alice", "old")
    server.another_process().users.change_password("alice", "new")
    with pytest.raises(AuthError):
        server.door.authenticate(key)
    with pytest.raises(AuthError):
        server.login("alice", "old")
    server.login("alice", "new")


def test_a_key_in_daily_use_dies_at_once_whichever_way(server):
    """What a process remembers of a key is forgotten with the first change by any other."""
    other = server.another_process()
    for name, kill in (
        ("alice", lambda key: other.users.change_password("alice", "new")),
        ("bob", lambda key: other.users.remove("bob")),
        ("carol", lambda key: other.keys.revoke(hash_of(key))),
        ("dave", lambda key: server.keys.revoke(hash_of(key))),
    ):
        server.users.add(name, "secret")
        key = server.login(name, "secret")
        user = server.users.find(name).id
        assert [server.door.authenticate(key) for _ in range(3)] == [user] * 3
        kill(key)
        with pytest.raises(AuthError):
            server.door.authenticate(key)


def test_a_key_in_use_is_looked_up_once(server, monkeypatch):
    server.users.add("alice", "secret")
    key = server.login("alice", "secret")
    asked = []
    find = server.keys.find
    monkeypatch.setattr(server.keys, "find", lambda key_hash: asked.append(key_hash) or find(key_hash))
    for _ in range(5):
        server.door.authenticate(key)
    assert len(asked) == 1


def test_a_change_while_a_key_is_looked_at_is_not_missed(server, monkeypatch):
    """The change comes after the answer, and before it is remembered."""
    server.users.add("alice", "secret")
    key = server.login("alice", "secret")
    confirm = server.users.confirm

    def confirm_and_revoke(identity):
        confirmed = confirm(identity)
        server.another_process().keys.revoke(hash_of(key))
        with pytest.raises(AuthError):
            server.door.authenticate(key)  # another request meanwhile
        return confirmed

    monkeypatch.setattr(server.users, "confirm", confirm_and_revoke)
    server.door.authenticate(key)
    with pytest.raises(AuthError):
        server.door.authenticate(key)


def test_a_key_handed_out_while_the_password_changed_is_dead(server):
    user = server.users.add("alice", "old")
    identity = server.users.verify("alice", "old")
    server.users.change_password("alice", "new")
    assert server.users.confirm(identity) is None
    assert server.users.confirm(Identity(user.id, server.users.verify("alice", "new").proof))


def test_a_removed_user_is_out_at_once_and_a_new_one_of_that_name_is_another(server):
    first = server.users.add("alice", "secret")
    key = server.login("alice", "secret")
    server.another_process().users.remove("alice")
    with pytest.raises(AuthError):
        server.door.authenticate(key)
    with pytest.raises(AuthError):
        server.login("alice", "secret")
    assert server.users.add("alice", "secret").id != first.id
    with pytest.raises(AuthError):
        server.door.authenticate(key)


def test_a_key_revoked_by_another_real_process_is_dead_here_at_the_next_request(server):
    server.users.add("alice", "secret")
    kept, lost = server.login("alice", "secret"), server.login("alice", "secret")
    server.door.authenticate(lost)
    code = (
        "import sys; from pathlib import Path\n"
        "from app.auth.local.hostkeys import LocalHostKeys; from app.auth.local.usersfile import UsersFile\n"
        "from storage.types import run_inline\n"
        "keys = LocalHostKeys(UsersFile(Path(sys.argv[1]), run_inline))\n"
        "assert keys.revoke(bytes.fromhex(sys.argv[2]))\n"
    )
    arguments = [sys.executable, "-c", code, str(server.path), hash_of(lost).hex()]
    subprocess.run(arguments, check=True, timeout=60, cwd=ROOT)
    with pytest.raises(AuthError):
        server.door.authenticate(lost)
    assert server.door.authenticate(kept)


def test_a_user_added_by_another_process_can_log_in_here_without_a_restart(server):
    with pytest.raises(AuthError):
        server.login("alice", "secret")
    alice = server.another_process().users.add("alice", "secret")
    assert server.door.authenticate(server.login("alice", "secret")) == alice.id


def test_last_use_is_stored_once_an_hour_and_not_by_every_request(server, clock):
    server.users.add("alice", "secret")
    key = server.login("alice", "secret")
    made = server.keys.find(hash_of(key))
    clock.pass_s(3599)
    server.door.authenticate(key)
    assert server.keys.find(hash_of(key)) == made
    clock.pass_s(1)
    server.door.authenticate(key)
    assert server.keys.find(hash_of(key)).used_ms == clock()
    assert server.keys.find(hash_of(key)).created_ms == made.created_ms


def test_a_key_remembers_its_client(server):
    server.users.add("alice", "secret")
    server.door.login("alice", "secret", "192.0.2.1", "anki,26.9\ud800" + "x" * 500)
    (record,) = server.keys.list()
    assert record.client.startswith("anki,26.9")
    assert len(record.client) <= 100


def test_a_record_moved_to_another_user_does_not_open(server):
    server.users.add("alice", "secret")
    mallory = server.users.add("mallory", "secret")
    key = server.login("alice", "secret")
    server.file.write(
        lambda connection: connection.execute("UPDATE keys SET user = ?", (mallory.id,)) and None
    )
    with pytest.raises(AuthError):
        server.door.authenticate(key)


class FlakyDirectory:
    """Somebody else's user directory: may be away, may lose a user, may change a proof."""

    verify_at_once = 2
    recheck_after_ms = 5 * MINUTE_MS
    outage_grace_ms = 60 * MINUTE_MS

    def __init__(self) -> None:
        self.away = False
        self.users = {"alice": "secret"}
        self.asked: list[Identity] = []
        self.during_confirm = lambda: None

    def verify(self, username: str, password: str) -> Identity:
        if self.away:
            raise ServiceUnavailable("away")
        if self.users.get(username) != password:
            raise AuthError("wrong")
        return Identity(UserId(username), b"token-0")

    def confirm(self, identity: Identity) -> Identity | None:
        self.asked.append(identity)
        self.during_confirm()
        if self.away:
            raise ServiceUnavailable("away")
        if identity.user not in self.users:
            return None
        return Identity(identity.user, b"token-%d" % len(self.asked))


@pytest.fixture
def directory():
    return FlakyDirectory()


@pytest.fixture
def door(server, directory, clock):
    return server.make_door(directory)


def test_a_directory_is_asked_again_only_after_its_time(door, directory, clock):
    key = door.login("alice", "secret", "192.0.2.1")
    clock.pass_s(299)
    door.authenticate(key)
    assert directory.asked == []
    clock.pass_s(1)
    door.authenticate(key)
    door.authenticate(key)
    assert [identity.proof for identity in directory.asked] == [b"token-0"]


def test_a_proof_that_the_directory_renews_is_kept_for_the_next_time(door, directory, clock):
    key = door.login("alice", "secret", "192.0.2.1")
    for _ in range(3):
        clock.pass_s(300)
        door.authenticate(key)
    assert [identity.proof for identity in directory.asked] == [b"token-0", b"token-1", b"token-2"]


def test_a_user_whom_the_directory_lost_is_out_at_the_next_check_and_for_good(door, directory, clock):
    key = door.login("alice", "secret", "192.0.2.1")
    del directory.users["alice"]
    clock.pass_s(300)
    with pytest.raises(AuthError):
        door.authenticate(key)
    directory.users["alice"] = "secret"
    with pytest.raises(AuthError):
        door.authenticate(key)


def test_while_the_directory_is_away_keys_go_on_for_a_bounded_time(door, directory, clock):
    key = door.login("alice", "secret", "192.0.2.1")
    directory.away = True
    clock.pass_s(64 * 60)
    assert door.authenticate(key) == "alice"
    clock.pass_s(60)
    with pytest.raises(ServiceUnavailable):
        door.authenticate(key)
    directory.away = False
    clock.pass_s(60)
    assert door.authenticate(key) == "alice"


def test_an_outage_is_met_by_one_request_now_and_then_and_not_by_each(door, directory, clock):
    keys = [door.login("alice", "secret", "192.0.2.1") for _ in range(3)]
    directory.away = True
    clock.pass_s(300)
    for _ in range(5):
        for key in keys:
            door.authenticate(key)
    assert len(directory.asked) == 1
    clock.pass_s(15)
    door.authenticate(keys[0])
    assert len(directory.asked) == 2


def test_requests_that_come_while_one_asks_do_not_ask_too(door, directory, clock):
    key = door.login("alice", "secret", "192.0.2.1")
    clock.pass_s(300)
    answers = []

    def meanwhile() -> None:
        if len(answers) < 5:
            answers.append(door.authenticate(key))

    directory.during_confirm = meanwhile
    door.authenticate(key)
    assert answers == ["alice"]
    assert len(directory.asked) == 1


def test_a_login_that_met_an_outage_is_not_counted_against_the_user(make_server, directory, clock):
    server = make_server()
    door = server.make_door(directory)
    directory.away = True
    for _ in range(50):
        with pytest.raises(ServiceUnavailable):
            door.login("alice", "secret", "192.0.2.1")
    directory.away = False
    assert door.login("alice", "secret", "192.0.2.1")


def test_no_secret_shows_in_logs_reprs_or_errors(make_server, caplog):
    caplog.set_level(logging.DEBUG)
    server = make_server(environment={"bob": "bobs-password"})
    server.users.add("alice", "alices-password")
    keys = [server.login("alice", "alices-password"), server.login("bob", "bobs-password")]
    shown = [repr(server.users.verify("bob", "bobs-password")), repr(server.users.find("alice"))]
    shown += [repr(record) for record in server.keys.list()]
    shown += [repr(user) for user in EnvironmentUsers({"bob": "bobs-password"}.items()).by_name.values()]
    for attempt in (
        lambda: server.login("alice", "wrong-password-1"),
        lambda: server.login("wrong-password-2", "x"),
        lambda: server.door.authenticate("a-made-up-key"),
        lambda: [server.login("alice", "wrong-password-3") for _ in range(20)],
    ):
        with pytest.raises((AuthError, RateLimited)) as caught:
            attempt()
        shown.append("".join(traceback.format_exception_only(caught.value)))
    shown.append(caplog.text)
    text = "\n".join(shown)
    for secret in ("alices-password", "bobs-password", "wrong-password", "a-made-up-key", *keys):
        assert secret not in text


def test_a_directory_that_hangs_holds_one_request_for_a_moment_and_the_others_not_at_all(
    server, directory, clock
):
    hanging, released = threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        released.wait(30)

    directory.during_confirm = hang
    door = Authenticator(directory, server.keys, server.attempts, clock, patience_s=0.05)
    keys = [door.login("alice", "secret", "192.0.2.1") for _ in range(2)]
    clock.pass_s(300)
    try:
        assert door.authenticate(keys[0]) == "alice"
        assert hanging.wait(10)
        for _ in range(20):
            assert [door.authenticate(key) for key in keys] == ["alice", "alice"]
        assert len(directory.asked) == 1
    finally:
        released.set()


def test_an_answer_that_comes_late_ends_the_key_all_the_same(server, directory, clock):
    released, answered = threading.Event(), threading.Event()
    directory.during_confirm = lambda: released.wait(30)

    def beside(work) -> None:
        def run() -> None:
            work()
            answered.set()

        threading.Thread(target=run).start()

    door = Authenticator(directory, server.keys, server.attempts, clock, patience_s=0.01, start_thread=beside)
    key = door.login("alice", "secret", "192.0.2.1")
    del directory.users["alice"]
    clock.pass_s(300)
    assert door.authenticate(key) == "alice"
    released.set()
    assert answered.wait(10)
    with pytest.raises(AuthError):
        door.authenticate(key)


def test_a_key_that_is_dead_but_cannot_be_deleted_is_refused(door, directory, clock, server, monkeypatch):
    key = door.login("alice", "secret", "192.0.2.1")
    del directory.users["alice"]
    clock.pass_s(300)

    def away(_key_hash):
        raise ServiceUnavailable("the table is away")

    monkeypatch.setattr(server.keys, "revoke", away)
    for _ in range(2):
        with pytest.raises(AuthError):
            door.authenticate(key)


def test_one_login_that_cannot_be_confirmed_does_not_keep_others_from_being_asked_about(
    door, directory, clock, caplog
):
    keys = [door.login("alice", "secret", "192.0.2.1") for _ in range(2)]
    clock.pass_s(300)

    def fail_first() -> None:
        if len(directory.asked) == 1:
            raise CannotConfirm("a trigger failed")

    directory.during_confirm = fail_first
    assert [door.authenticate(keys[0]) for _ in range(3)] == ["alice"] * 3
    assert len(directory.asked) == 1
    assert "a trigger failed" in caplog.text
    del directory.users["alice"]
    with pytest.raises(AuthError):
        door.authenticate(keys[1])


def test_a_removed_environment_user_is_refused_and_its_key_not_ended(make_server):
    """A SYNC_USERn may be missing by mistake; with the next start its devices go on."""
    key = make_server(environment={"bob": "b"}).login("bob", "b")
    with pytest.raises(AuthError):
        make_server(environment={"eve": "e"}).door.authenticate(key)
    assert make_server(environment={"bob": "b"}).door.authenticate(key)


class CountedKeys:
    """Host keys as one server sees them: each read is counted, and remembered for 30 s."""

    def __init__(self, keys, clock, reads: list[bytes]) -> None:
        self._keys, self._clock, self._reads = keys, clock, reads
        self._key_cache = KeyCache(30_000)

    def find(self, key_hash: bytes):
        if record := self._key_cache.find(key_hash, self._clock()):
            return record
        self._reads.append(key_hash)
        record = self._keys.find(key_hash)
        if record is not None:
            self._key_cache.add(record, self._clock())
        return record

    def __getattr__(self, name: str):
        return getattr(self._keys, name)


class Fleet:
    """Six servers over the same keys; a session record carries what the proof of its first request was."""

    def __init__(self, server, directory, clock) -> None:
        self.reads: list[bytes] = []
        self.doors = [
            Authenticator(
                directory, CountedKeys(server.keys, clock, self.reads), server.attempts, clock,
                start_thread=lambda work: work(),
            )
            for _ in range(6)
        ]  # fmt: skip
        self.key = self.doors[0].login("alice", "secret", "192.0.2.1")

    def begin(self, number: int = 1) -> KeyProof:
        return self.doors[number].admit(self.key).prove()

    def go_on(self, session: KeyProof, number: int) -> KeyProof:
        return self.doors[number].admit(self.key).prove(session.key_hash, session.until_ms)


@pytest.fixture
def fleet(server, directory, clock):
    return Fleet(server, directory, clock)


def test_a_sync_over_six_servers_reads_its_key_twice(fleet, clock):
    """By the first request, which has no session yet, and by the one that begins the session."""
    assert fleet.doors[0].admit(fleet.key).prove().user == "alice"
    session = fleet.begin()
    for number in range(2, 6):
        clock.pass_s(1)
        assert fleet.go_on(session, number) == session
    assert len(fleet.reads) == 2


def test_before_it_is_proven_a_key_costs_no_call(fleet):
    admission = fleet.doors[0].admit(fleet.key)
    assert (admission.user, fleet.reads) == ("alice", [])


def test_a_revoked_key_is_dead_in_a_running_sync_within_half_a_minute(fleet, server, clock):
    session = fleet.begin()
    server.keys.revoke(session.key_hash)
    clock.pass_s(29)
    fleet.go_on(session, 3)
    clock.pass_s(1)
    with pytest.raises(AuthError):
        fleet.go_on(session, 3)


def test_the_session_of_another_key_proves_nothing(fleet, server):
    session = fleet.begin()
    other = fleet.doors[0].login("alice", "secret", "192.0.2.1")
    server.keys.revoke(hash_of(other))
    with pytest.raises(AuthError):
        fleet.doors[3].admit(other).prove(session.key_hash, session.until_ms)


def test_a_made_up_key_that_names_a_user_opens_nothing(fleet):
    session = fleet.begin()
    forged = fleet.doors[3].admit("x" * 43 + ".alice")
    for proof in ((session.key_hash, session.until_ms), (b"", 0), (b"", 1 << 60)):
        with pytest.raises(AuthError):
            forged.prove(*proof)


def test_a_key_with_another_users_name_appended_opens_nothing(fleet):
    secret, _, _ = fleet.key.partition(".")
    with pytest.raises(AuthError):
        fleet.doors[0].admit(f"{secret}.bob").prove()


def test_a_key_whose_record_names_another_user_than_itself_is_refused(fleet, server, clock):
    key = new_key(UserId("bob"))
    sealed = seal(key, UserId("alice"), b"token")
    now_ms = clock()
    server.keys.add(KeyRecord(hash_of(key), UserId("alice"), "", now_ms, now_ms, now_ms, sealed))
    with pytest.raises(AuthError):
        fleet.doors[0].admit(key).prove()


def test_a_session_proof_from_a_clock_that_is_ahead_is_not_believed(fleet, server, clock):
    session = fleet.begin()
    server.keys.revoke(session.key_hash)
    with pytest.raises(AuthError):
        fleet.doors[3].admit(fleet.key).prove(session.key_hash, clock() + 3_600_000)


def test_a_session_proof_ends_when_the_directory_is_to_be_asked(fleet, directory, clock):
    clock.pass_s(290)
    session = fleet.begin()
    del directory.users["alice"]
    clock.pass_s(9)
    fleet.go_on(session, 3)
    clock.pass_s(1)
    with pytest.raises(AuthError):
        fleet.go_on(session, 3)


def test_after_the_directory_was_asked_the_proof_is_good_again(fleet, clock):
    clock.pass_s(300)
    session = fleet.begin()
    assert session.until_ms == clock() + 30_000


def test_where_every_request_asks_the_directory_no_session_proves_a_key(server, directory, clock):
    directory.recheck_after_ms = 0
    fleet = Fleet(server, directory, clock)
    session = fleet.begin()
    del directory.users["alice"]
    with pytest.raises(AuthError):
        fleet.go_on(session, 3)


def test_a_key_from_before_keys_named_users_is_proven_at_once(fleet, server, clock):
    now_ms = clock()
    sealed = seal("old-key", UserId("alice"), b"token-0")
    server.keys.add(KeyRecord(hash_of("old-key"), UserId("alice"), "", now_ms, now_ms, now_ms, sealed))
    admission = fleet.doors[2].admit("old-key")
    assert admission.user == "alice"
    assert admission.prove().user == "alice"
    assert len(fleet.reads) == 1


def test_with_the_users_file_a_session_proves_nothing_so_that_a_revocation_holds_at_once(server):
    server.users.add("alice", "secret")
    key = server.login("alice", "secret")
    proof = server.door.admit(key).prove()
    assert proof.until_ms == 0
    server.another_process().keys.revoke(hash_of(key))
    with pytest.raises(AuthError):
        server.door.admit(key)


@pytest.mark.parametrize("user", ["u0123", "env-abc", "93f4b8a2-4041-70f2-5e5c-0a1b2c3d4e5f", "a.b.c"])
def test_a_key_names_its_user(user):
    key = new_key(UserId(user))
    assert claimed_user(key) == user
    assert len(key) - len(user) == 44


@pytest.mark.parametrize(
    "key", ["", "abc", "abc.", "abc.a/b", "abc..", "abc...", "abc." + "x" * 129, "a.b\n"]
)
def test_what_names_no_user_claims_none(key):
    assert claimed_user(key) is None
