"""`ankisyncctl rebuild-heads` on one machine: what is brought back, what is told, and what is left alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import apsw
import pytest

from app.auth.local.environment import environment_id
from app.cli.context import Admin as Context
from app.cli.rebuild import rebuilding_of
from app.config import Settings
from app.main import build_collections, new_nonce
from storage.database.format import keys
from storage.database.maintenance.mark import STORE, HeadsMark, list_databases
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline
from tests.app.cli.test_store_commands import Admin
from tests.support.past import change_media, content_of, make_collection

ALICE, BOB = UserId(environment_id("alice")), UserId(environment_id("bob"))
COLLECTION, MEDIA = DatabaseId(ALICE, DatabaseKind.COLLECTION), DatabaseId(ALICE, DatabaseKind.MEDIA)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Three versions of alice's collection and media, one of bob's collection; and a mark."""
    folder = tmp_path_factory.mktemp("prepared")
    admin = Admin(folder)
    with admin.stores() as stores:
        collections = build_collections(Settings.from_env(admin.env), stores, offload=run_inline)
        for number, words in enumerate(([], ["one", "two"], ["three"])):
            assert collections.upload(ALICE, make_collection(folder / f"{number}.anki2", words)) == "OK"
        assert collections.upload(BOB, make_collection(folder / "bob.anki2", ["bob's"])) == "OK"
        for changes in ({"a.txt": b"a", "b.txt": b"b"}, {"b.txt": None}, {"c.txt": b"c"}):
            change_media(stores, ALICE, folder, changes)
        stores.maintenance.run()
    return admin.root


@pytest.fixture
def admin(tmp_path, prepared) -> Admin:
    admin = Admin(tmp_path)
    shutil.copytree(prepared, admin.root)
    return admin


def heads_of(admin: Admin) -> dict:
    with admin.stores() as stores:
        return {database: stores.heads.find(database) for database in list_databases(stores.heads)}


def lose_heads(admin: Admin) -> None:
    for path in admin.root.glob("heads.sqlite*"):
        path.unlink()


def rebuild(admin: Admin, *words: str, code: int = 0) -> dict[str, dict]:
    rows = json.loads(admin.run("rebuild-heads", *words, "--json", code=code).stdout)
    return {f"{row['user']}/{row['database']}": row for row in rows}


def comparable(head):
    """All that objects tell; of the last answers, the last."""
    chain = [(entry.kind, entry.first, entry.last, entry.nonce, entry.sha256) for entry in head.chain]
    return (
        head.version, head.page_size, head.page_count, head.checksum, head.stamps, chain,
        head.recent[-1].commit_id, head.recent[-1].answer or None, len(head.recent), head.session,
    )  # fmt: skip


def test_lost_heads_are_made_as_they_were_with_higher_tokens(admin):
    before = heads_of(admin)
    lose_heads(admin)
    assert admin.run("doctor", code=1)
    assert {row["state"] for row in rebuild(admin).values()} == {"rebuilt"}
    after = heads_of(admin)
    assert after.keys() == before.keys()
    for database, head in after.items():
        told = comparable(before[database])
        if database.kind is DatabaseKind.COLLECTION:
            told = (*told[:7], b"%d" % head.stamps["mod"], *told[8:])  # an upload has no answer
        assert comparable(head) == told
        assert head.token > before[database].token
        assert head.chain_revision >= before[database].chain_revision
    admin.run("doctor", "--read-media")
    with admin.stores() as stores:
        assert HeadsMark(stores.heads, stores.objects, new_nonce).find_fault() is None
        assert content_of(stores, MEDIA) == {"a.txt", "c.txt"}
        summary = stores.maintenance.run(is_full=True)
        assert (summary.refused, summary.failed) == ([], 0)
    assert rebuild(admin) == {}


def test_a_dry_run_says_the_same_and_does_nothing(admin):
    lose_heads(admin)
    told = rebuild(admin, "--dry-run")
    assert heads_of(admin) == {}
    assert told == rebuild(admin)


def test_heads_of_an_earlier_moment_are_brought_up_to_the_objects(admin, tmp_path):
    heads, earlier = apsw.Connection(str(admin.root / "heads.sqlite")), tmp_path / "earlier.sqlite"
    heads.execute("VACUUM INTO ?", (str(earlier),))
    heads.close()
    with admin.stores() as stores:
        change_media(stores, ALICE, tmp_path, {"d.txt": b"d"})
        collections = build_collections(Settings.from_env(admin.env), stores, offload=run_inline)
        assert collections.upload(ALICE, make_collection(tmp_path / "new.anki2", ["four", "five"])) == "OK"
        stores.maintenance.run()
    before = heads_of(admin)
    lose_heads(admin)
    shutil.copy(earlier, admin.root / "heads.sqlite")
    told = rebuild(admin)
    assert {name: (row["record"], row["version"]) for name, row in told.items()} == {
        "alice/collection": (3, 4),
        "alice/media": (3, 4),
    }
    after = heads_of(admin)
    assert {found: (head.version, head.checksum) for found, head in after.items()} == {
        found: (head.version, head.checksum) for found, head in before.items()
    }
    assert after[MEDIA].stamps == before[MEDIA].stamps


def test_one_user_by_name_or_by_id(admin):
    lose_heads(admin)
    assert rebuild(admin, "bob").keys() == {"bob/collection"}
    assert heads_of(admin).keys() == {DatabaseId(BOB, DatabaseKind.COLLECTION)}
    with admin.stores() as stores:
        # the others are still lost, so nothing is served yet
        assert HeadsMark(stores.heads, stores.objects, new_nonce).find_fault() is not None
    assert rebuild(admin, str(ALICE)).keys() == {"alice/collection", "alice/media"}
    for nobody in ("carol", "no id"):
        assert "there is no user" in admin.run("rebuild-heads", nobody, code=1).output


def test_it_is_told_for_whom_the_last_commit_cannot_be_had(admin):
    last = keys.entry_key(MEDIA, heads_of(admin)[MEDIA].chain[-1])
    path = admin.root / "objects" / last
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    lose_heads(admin)
    told = rebuild(admin, code=1)
    assert told["bob/collection"]["state"] == told["alice/collection"]["state"] == "rebuilt"
    media = told["alice/media"]
    assert (media["state"], media["version"], media["newest"]) == ("older", 2, 3)
    assert last in media["note"]
    with admin.stores() as stores:
        assert content_of(stores, MEDIA) == {"a.txt"}


def test_nothing_is_invented_where_no_version_can_be_read(admin):
    for path in (admin.root / "objects" / keys.user_prefix(BOB)).rglob("*.snap"):
        path.write_bytes(b"ankipage")
    lose_heads(admin)
    told = rebuild(admin, code=1)
    assert told["bob/collection"]["state"] == "failed"
    assert DatabaseId(BOB, DatabaseKind.COLLECTION) not in heads_of(admin)


def test_a_record_that_went_another_way_is_left_alone(admin, tmp_path):
    with admin.stores() as stores:
        earlier = stores.heads.find(MEDIA)
        for name in ("d", "e"):
            change_media(stores, ALICE, tmp_path, {f"{name}.txt": b"old line"})
        stores.heads.replace_head(MEDIA, stores.heads.find(MEDIA), earlier)
        change_media(stores, ALICE, tmp_path, {"f.txt": b"new line"})
        here = stores.heads.find(MEDIA)
    told = rebuild(admin, code=1)
    assert told.keys() == {"alice/media"}
    assert (told["alice/media"]["state"], told["alice/media"]["version"]) == ("split", 4)
    assert heads_of(admin)[MEDIA] == here


def test_it_can_be_broken_off_after_any_record(admin):
    lose_heads(admin)
    databases = [COLLECTION, MEDIA, DatabaseId(BOB, DatabaseKind.COLLECTION)]
    for broken_at in range(len(databases)):
        with Context(Settings.from_env(admin.env)).stores() as stores:
            written = []
            put = stores.heads.replace_head

            def failing(database, found, head, put=put, written=written, at=broken_at):
                if len(written) == 1:
                    raise KeyboardInterrupt(at)
                written.append(database)
                put(database, found, head)

            stores.heads.replace_head = failing
            with pytest.raises(KeyboardInterrupt):
                list(rebuilding_of(stores).run())
            assert HeadsMark(stores.heads, stores.objects, new_nonce).find_fault() is not None
    assert heads_of(admin).keys() == set(databases)
    rebuild(admin)
    with admin.stores() as stores:
        assert HeadsMark(stores.heads, stores.objects, new_nonce).find_fault() is None
        assert stores.heads.find(STORE) is not None


def test_objects_that_are_older_than_the_records_are_not_taken_for_right(admin):
    with admin.stores() as stores:
        mark = HeadsMark(stores.heads, stores.objects, new_nonce)
        for step in range(70):
            mark.advance(step)
        stores.objects.delete([stat.key for stat in stores.objects.list("upkeep/heads/")][1:])
    assert "of an earlier moment than the head records" in admin.run("rebuild-heads", code=1).output
    with admin.stores() as stores:
        assert HeadsMark(stores.heads, stores.objects, new_nonce).find_fault() is not None
