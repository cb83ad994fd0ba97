"""The standing check: whose turn it is, and that damage of every kind is found within a round."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace

from app.auth.local.environment import environment_id
from app.config import Settings
from app.main import build_collections, new_nonce, now_ms
from app.maintenance import EVERYTHING, Shard, Summary
from app.restorecheck import ROUND_MS, RestoreCheck, Verified, read_verified
from storage.database.commit import Commit
from storage.database.format import keys
from storage.database.history import RestorePoint
from storage.media.blobs import Blobs, key_of
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline
from tests.app.cli.test_store_commands import Admin
from tests.support.faults import Faults
from tests.support.past import change_media, make_collection

ALICE = UserId(environment_id("alice"))
COLLECTION, MEDIA = DatabaseId(ALICE, DatabaseKind.COLLECTION), DatabaseId(ALICE, DatabaseKind.MEDIA)
DAY_MS = 24 * 3_600_000
START_MS = now_ms()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Alice's collection in two versions, and her media in many, the last ones as deltas."""
    admin = Admin(tmp_path_factory.mktemp("prepared"))
    with admin.stores() as stores:
        collections = build_collections(Settings.from_env(admin.env), stores, offload=run_inline)
        for number, words in enumerate((["one"], ["one", "two"])):
            path = make_collection(admin.root.parent / f"{number}.anki2", words)
            assert collections.upload(ALICE, path) == "OK"
        many = {f"file {number}.txt": b"%d" % number for number in range(400)}
        change_media(stores, ALICE, admin.root.parent, many)
        change_media(stores, ALICE, admin.root.parent, {"small.txt": b"small"})
        change_media(stores, ALICE, admin.root.parent, {"large.bin": bytes(3_000_000)})
        assert len(stores.heads.find(MEDIA).chain) == 3
    return admin.root


@pytest.fixture
def admin(tmp_path, prepared) -> Admin:
    admin = Admin(tmp_path)
    shutil.copytree(prepared, admin.root)
    return admin


def check_of(stores, heads=None, objects=None) -> RestoreCheck:
    objects = objects or stores.objects
    return RestoreCheck(
        heads or stores.heads,
        objects,
        Blobs(objects, fresh_ms=1),
        stores.limits,
        scratch=stores.work.path,
        nonce=new_nonce,
        offload=run_inline,
    )


def run(stores, at_ms: int = START_MS, shard: Shard = EVERYTHING, **inner) -> Summary:
    summary = Summary(unsound=[])
    check_of(stores, **inner).run(at_ms, shard, summary)
    return summary


def add_users(stores, count: int) -> list[UserId]:
    """Users with a copy of alice's newest collection; they come behind her."""
    head = stores.heads.find(COLLECTION)
    users = [UserId(f"user{number:03}") for number in range(count)]
    for user in users:
        database, path = DatabaseId(user, DatabaseKind.COLLECTION), stores.work.path / f"{user}.db"
        stores.databases.export(COLLECTION, RestorePoint(head.version, 1, head.chain), path)
        commit = Commit(new_nonce(), b"", 1, head.stamps, None)
        stores.databases.replace(database, stores.databases.head(database), path, commit)
    return users


def test_a_sound_store_is_found_sound_and_the_age_is_kept(admin):
    with admin.stores() as stores:
        assert read_verified(stores.objects, new_nonce).last_ms is None
        summary = run(stores)
        assert (summary.verified, summary.unsound) == (1, [])
        assert read_verified(stores.objects, new_nonce) == Verified(START_MS, START_MS, {})
        assert list(stores.work.path.glob("check-*")) == []
    moment = f"{datetime.fromtimestamp(START_MS / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    assert f"Last verified restore: {moment}; of every user since {moment}." in admin.run("status").stderr


def test_maintenance_checks_and_status_tells(admin):
    assert "No restore has been verified yet." in admin.run("status").stderr
    assert "1 users restored and compared" in admin.run("maintain").stdout
    assert "of every user since" in admin.run("status").stderr


@pytest.mark.parametrize("runs_a_day", [1, 3])
def test_every_user_comes_once_in_thirty_days(admin, runs_a_day):
    with admin.stores() as stores:
        users = {ALICE, *add_users(stores, 40)}
        seen: dict[str, list[int]] = {}
        for number in range(62 * runs_a_day):
            at_ms = START_MS + number * DAY_MS // runs_a_day
            check = check_of(stores)
            check._examine = lambda database, now_ms: seen.setdefault(database.user, []).append(now_ms) or ""
            summary = Summary(unsound=[])
            check.run(at_ms, EVERYTHING, summary)
            assert summary.verified <= len(users) // 25 + 1
        assert seen.keys() == users
        for times in seen.values():
            gaps = [later - earlier for earlier, later in itertools.pairwise([START_MS, *sorted(set(times))])]
            assert max(gaps) <= 30 * DAY_MS
        whole_ms = read_verified(stores.objects, new_nonce).whole_ms
        assert at_ms - whole_ms <= 2 * ROUND_MS


def test_after_a_long_pause_all_are_checked(admin):
    with admin.stores() as stores:
        add_users(stores, 4)
        assert run(stores).verified == 1
        assert run(stores, START_MS + 40 * DAY_MS).verified == 4
        assert read_verified(stores.objects, new_nonce).whole_ms == START_MS


def test_each_shard_has_a_round_of_its_own(admin):
    with admin.stores() as stores:
        add_users(stores, 6)
        run(stores, START_MS - DAY_MS)  # before there were shards
        first, second = Shard(1, 2), Shard(2, 2)
        run(stores, START_MS, first)
        assert read_verified(stores.objects, new_nonce).whole_ms is None
        for day in range(1, 9):
            run(stores, START_MS + day * DAY_MS, first)
            run(stores, START_MS + day * DAY_MS, second)
        assert read_verified(stores.objects, new_nonce).whole_ms >= START_MS


def test_a_store_that_is_away_is_no_fault_and_the_user_comes_next_time(admin):
    with admin.stores() as stores:
        faults = Faults()
        faults.fail_next("stream", landed=False)
        summary = run(stores, objects=faults.objects(stores.objects))
        assert (summary.verified, summary.unsound) == (0, [])
        assert read_verified(stores.objects, new_nonce).last_ms is None
        assert run(stores).verified == 1


def test_a_sync_meanwhile_is_no_fault(admin, tmp_path):
    with admin.stores() as stores:
        watched = Faults()
        done = []

        def change(call):
            if call.method == "stream" and not done:
                done.append(call)
                change_media(stores, ALICE, tmp_path, {"meanwhile.txt": b"m"})

        watched.watch = change
        assert run(stores, objects=watched.objects(stores.objects)).unsound == []
        assert done


def chain_of(stores, database: DatabaseId) -> list[str]:
    return [keys.entry_key(database, entry) for entry in stores.heads.find(database).chain]


def spoil_head(stores, database: DatabaseId, **stamps: int) -> None:
    head = stores.heads.find(database)
    after = replace(head, stamps=head.stamps | stamps, token=head.token + 1)
    stores.heads.replace_head(database, head, after)


def flip(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def content_path(folder: Path, content: bytes) -> Path:
    return folder / key_of(hashlib.sha256(content).digest())


def lost_row(stores) -> None:
    """What no checksum can tell: a table and its index differ, as a merge with a fault would leave them."""
    head = stores.heads.find(COLLECTION)
    path = stores.work.path / "spoilt.db"
    stores.databases.export(COLLECTION, RestorePoint(head.version, 1, head.chain), path)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA writable_schema = 1")
    connection.execute("DELETE FROM sqlite_schema WHERE name = 'ix_notes_csum'")
    connection.execute("CREATE INDEX other ON notes (csum) WHERE csum < 0")
    connection.execute(
        "UPDATE sqlite_schema SET sql = 'CREATE INDEX other ON notes (csum)' WHERE name = 'other'"
    )
    connection.pragma("wal_checkpoint(TRUNCATE)")
    connection.close()
    commit = Commit(new_nonce(), b"", 1, head.stamps, None)
    stores.databases.replace(COLLECTION, head, path, commit)


KINDS = {
    "a snapshot is changed": lambda stores, root: flip(root / chain_of(stores, COLLECTION)[0], 0.5),
    "the end of a snapshot is changed": lambda stores, root: flip(root / chain_of(stores, COLLECTION)[0],
    1), "a snapshot is gone": lambda stores, root: (root / chain_of(stores, MEDIA)[0]).unlink(),
    "a delta is changed": lambda stores, root: flip(root / chain_of(stores, MEDIA)[-1], 0.5),
    "a delta is gone": lambda stores, root: (root / chain_of(stores, MEDIA)[1]).unlink(),
    "a version of the history is gone": lambda stores, root: next(
        path for path in (root / keys.prefix(COLLECTION) / "s").iterdir()
        if str(path.relative_to(root)) not in chain_of(stores, COLLECTION)
    ).unlink(),
    "a count is wrong": lambda stores, root: spoil_head(stores, COLLECTION, cards=1),
    "a count of media is wrong": lambda stores, root: spoil_head(stores, MEDIA, count=1),
    "a table and its index differ": lambda stores, root: lost_row(stores),
    "a content is gone": lambda stores, root: content_path(root, b"small").unlink(),
    "a content is changed": lambda stores, root: flip(content_path(root, bytes(3_000_000)), 0.9),
    "a content is cut": lambda stores, root: content_path(root, b"small").write_bytes(b"sma"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_each_kind_is_found_and_told_until_it_is_gone(admin, kind):
    root = admin.root / "objects"
    kept = shutil.copytree(admin.root, admin.root.parent / "sound")
    with admin.stores() as stores:
        add_users(stores, 2)
        KINDS[kind](stores, root)
        found = []
        for day in range(30):
            found += run(stores, START_MS + day * DAY_MS).unsound
        assert {text.partition(":")[0] for text in found} in ({str(COLLECTION)}, {str(MEDIA)})
    told = admin.run("status").stderr
    assert f"Error: {ALICE}/" in told
    assert f"{ALICE}/" in admin.run("maintain", code=1).output
    shutil.rmtree(root / keys.user_prefix(ALICE))
    for path in kept.joinpath("objects").rglob("*"):
        if path.is_file():
            copy = root / path.relative_to(kept / "objects")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    if kind.startswith(("a count", "a table")):
        return  # what is repaired there is the record
    with admin.stores() as stores:
        assert run(stores, START_MS + 60 * DAY_MS).unsound == []
