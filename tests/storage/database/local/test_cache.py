"""What lies on the local disk is never believed: poisoned, foreign, cut or missing, it is fetched again."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

import apsw
import pytest

from storage.database.local.cache import BaseCache, WorkFolder
from storage.database.local.checkout import log_path
from storage.errors import Corrupt, Unavailable
from tests.support.databases import DATABASE, OTHER, World, bytes_of, make_file, rows_of
from tests.support.faults import Faults


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


def bases(world, database=DATABASE):
    return sorted((world.root / "local" / "bases" / database.user / database.kind.value).glob("*.db"))


def base_of(world):
    (base,) = bases(world)
    return base


def keeping_times(path, change):
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    os.truncate(path, path.stat().st_size - 4096)


def grow(path):
    with path.open("ab") as file:
        file.write(bytes(4096))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("change", [flip, cut, grow, empty])
def test_a_base_that_was_written_to_is_fetched_again(world, change):
    store = world.worker()
    world.genesis(store)
    expected = bytes_of(world.fresh())
    change(bases(world)[0])
    assert bytes_of(store) == expected
    assert bases(world)[0].read_bytes() == expected


def test_a_bit_that_rots_in_a_base_is_found_by_the_full_check(world):
    store = world.worker(verify_every=1)
    world.genesis(store)
    expected = bytes_of(world.fresh())
    keeping_times(bases(world)[0], flip)
    assert bytes_of(store) == expected


def test_a_bit_that_rots_in_a_base_never_gets_into_a_snapshot(world):
    store = world.worker(chain_deltas=0)
    world.genesis(store)
    expected = bytes_of(world.fresh())
    checkout = store.checkout(DATABASE, store.head(DATABASE))
    keeping_times(base_of(world), flip)
    checkout.connection.execute("CREATE TABLE other (id)")
    with pytest.raises(Corrupt):
        store.commit(checkout, store.head(DATABASE), world.commit())
    assert bytes_of(store) == expected


def test_a_bit_that_rots_before_a_base_is_first_used_is_found_at_once(world):
    store = world.worker()
    world.genesis(store)
    expected = bytes_of(world.fresh())
    keeping_times(base_of(world), flip)
    assert bytes_of(store) == expected


def rot_in_free_space(path, page):
    """A bit that SQLite does not look at, in the middle of a page of a table with few rows."""

    def change(path):
        with path.open("r+b") as file:
            file.seek((page - 1) * 4096 + 2000)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))

    keeping_times(path, change)


def small_table(store):
    """A checkout of a file with a table of one row; and the table's page."""
    head = store.head(DATABASE)
    checkout = store.checkout(DATABASE, head)
    page = checkout.connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'few'").get
    return checkout, page


@pytest.fixture
def few(world):
    """A worker whose database has a table `few` of one row in its base."""
    store = world.worker()
    path = make_file(store.new_path(".upload"))
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE few (id INTEGER PRIMARY KEY, v); INSERT INTO few VALUES (1, 'one')")
    connection.pragma("wal_checkpoint(TRUNCATE)")
    connection.close()
    world.genesis_from(store, path)
    return store


def test_a_commit_on_a_page_that_rotted_in_the_base_is_refused_and_the_next_one_succeeds(world, few):
    expected = bytes_of(world.fresh())
    checkout, page = small_table(few)
    rot_in_free_space(base_of(world), page)
    checkout.begin()
    checkout.connection.execute("UPDATE few SET v = 'two'")
    with pytest.raises(Corrupt):
        few.commit(checkout, few.head(DATABASE), world.commit())
    assert bytes_of(few) == bytes_of(world.fresh()) == expected
    world.change(few, "UPDATE few SET v = 'two'")
    assert few.doctor(DATABASE).faults == ()
    assert bytes_of(few) == bytes_of(world.fresh())


def test_a_commit_on_a_page_that_rotted_in_the_log_is_refused_and_the_next_one_succeeds(world, few):
    world.change(few, "UPDATE few SET v = 'two'")
    expected = bytes_of(world.fresh())
    checkout, page = small_table(few)
    checkout.begin()
    checkout.connection.execute("UPDATE few SET v = 'three'")
    with log_path(checkout.path).open("r+b") as file:
        file.seek(checkout.layout.in_log[page] + 2000)
        file.write(b"rot")
    with pytest.raises(Corrupt):
        few.commit(checkout, few.head(DATABASE), world.commit())
    assert bytes_of(few) == bytes_of(world.fresh()) == expected


def test_a_page_of_a_laid_delta_that_rots_in_the_log_does_not_become_part_of_a_commit(world, few):
    world.change(world.fresh(), "UPDATE few SET v = 'two'")
    expected = bytes_of(world.fresh())
    checkout, page = small_table(few)
    checkout.begin()
    checkout.connection.execute("UPDATE few SET v = 'three'")
    with log_path(checkout.path).open("r+b") as file:
        file.seek(checkout.layout.in_log[page] + 2000)
        file.write(b"rot")
    with pytest.raises(Corrupt):
        few.commit(checkout, few.head(DATABASE), world.commit())
    assert bytes_of(few) == expected


def test_a_delta_that_is_laid_over_a_rotten_page_makes_the_base_be_fetched_again(world, few):
    checkout, page = small_table(few)
    few.release(checkout)
    world.change(world.fresh(), "UPDATE few SET v = 'two'")
    rot_in_free_space(base_of(world), page)
    assert bytes_of(few) == bytes_of(world.fresh())


def test_a_download_of_a_rotten_copy_ends_with_an_error_and_the_next_one_is_whole(world, few):
    expected = bytes_of(world.fresh())
    checkout, page = small_table(few)
    rot_in_free_space(base_of(world), page)
    with pytest.raises(Corrupt):
        b"".join(checkout.reader().blocks())
    few.release(checkout)
    assert bytes_of(few) == expected


def test_hashes_that_rot_themselves_cost_a_fetch_and_nothing_else(world, few):
    expected = bytes_of(world.fresh())
    few.release(small_table(few)[0])
    sums = base_of(world).with_name(base_of(world).name + "-sums")
    sums.write_bytes(bytes(sums.stat().st_size))
    other = world.worker()
    with pytest.raises(Corrupt):
        bytes_of(other)
    assert bytes_of(other) == expected


@pytest.mark.parametrize("name", ["EPERM", "EOPNOTSUPP", "EIO", "EACCES", "ENOSYS", "EINVAL", "EMLINK"])
def test_a_file_system_without_hard_links_gets_copies(world, monkeypatch, name):
    def no_links(self, target):
        raise OSError(getattr(errno, name), "no links here")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    store = world.worker()
    world.genesis(store)
    world.change(store, "DELETE FROM t WHERE id = 1")
    assert bytes_of(store) == bytes_of(world.fresh())


def test_a_base_that_is_evicted_as_soon_as_it_is_published_is_no_damage(world, monkeypatch):
    world.genesis(world.worker())
    expected = bytes_of(world.worker("other"))
    fresh = world.fresh()
    publish = fresh._bases.publish

    def evicted(*args):
        base = publish(*args)
        base.path.unlink()
        return base

    monkeypatch.setattr(fresh._bases, "publish", evicted)
    assert bytes_of(fresh) == expected


def test_a_copy_that_sqlite_finds_malformed_is_not_used_again(world):
    store = world.worker()
    world.genesis(store)
    checkout = store.checkout(DATABASE, store.head(DATABASE))
    keeping_times(base_of(world), flip)
    with pytest.raises(apsw.CorruptError):
        checkout.connection.execute("UPDATE t SET v = zeroblob(700) WHERE id > 300")
    store.distrust(checkout)
    assert len(rows_of(store)) == 2000


def test_a_rotten_copy_does_not_stop_compaction(world):
    store = world.worker(snapshot_percent=0)
    world.genesis(store)
    world.change(store, "DELETE FROM t WHERE id = 1999")
    expected = bytes_of(world.fresh())
    base = bases(world)[0]
    with base.open("r+b") as file:
        file.seek(base.stat().st_size // 2)
        file.write(b"rot")
    assert store.compact(DATABASE)
    assert bytes_of(world.fresh()) == expected


def test_a_log_beside_a_base_is_not_read(world):
    store = world.worker()
    world.genesis(store)
    expected = bytes_of(world.fresh())
    base = bases(world)[0]
    copy = world.root / "copy.db"
    copy.write_bytes(base.read_bytes())
    connection = apsw.Connection(str(copy))
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.execute("DELETE FROM t")
    base.with_name(base.name + "-wal").write_bytes(copy.with_name("copy.db-wal").read_bytes())
    connection.close()
    assert bytes_of(store) == expected


def test_the_base_of_another_user_under_this_users_name_is_not_taken(world):
    store = world.worker()
    world.genesis(store, DATABASE, rows=10)
    world.genesis(store, OTHER, rows=20)
    mine, other = bases(world)[0], bases(world, OTHER)[0]
    os.link(other, mine.with_name("tmp"))
    mine.with_name("tmp").replace(mine)
    assert len(rows_of(store)) == 10
    assert len(rows_of(store, OTHER)) == 20


def test_a_disk_without_hard_links_gets_copies(world, monkeypatch):
    store = world.worker()
    world.genesis(store)

    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(type(world.root), "hardlink_to", refuse)
    world.change(store, "DELETE FROM t WHERE id = 1")
    assert len(rows_of(store)) == 1999


def test_a_missing_base_is_fetched_again(world):
    store = world.worker()
    world.genesis(store)
    bases(world)[0].unlink()
    assert len(rows_of(store)) == 2000


def test_bases_are_not_written_by_sessions(world):
    store = world.worker(page_cache_bytes=8 << 10)
    world.genesis(store)
    base = bases(world)[0]
    before, figures = base.read_bytes(), base.stat()
    for n in range(3):
        world.change(store, f"DELETE FROM t WHERE id % 3 = {n} AND id < 60; PRAGMA incremental_vacuum")
    assert base.read_bytes() == before
    assert (base.stat().st_mtime_ns, base.stat().st_ino) == (figures.st_mtime_ns, figures.st_ino)
    assert stat.S_IMODE(base.stat().st_mode) == 0o600


def test_a_base_written_to_behind_an_open_checkout_stops_its_commit(world):
    store = world.worker()
    head = world.genesis(store)
    expected = bytes_of(store)
    checkout = store.checkout(DATABASE, head)
    checkout.connection.execute("DELETE FROM t WHERE id = 1")
    flip(bases(world)[0])
    with pytest.raises(Corrupt):
        store.commit(checkout, head, world.commit())
    assert store.head(DATABASE) == head
    assert bytes_of(store) == expected


def test_a_lost_log_stops_the_commit(world):
    store = world.worker()
    head = world.genesis(store)
    checkout = store.checkout(DATABASE, head)
    checkout.begin()
    checkout.connection.execute("DELETE FROM t WHERE id = 1")
    checkout.connection.execute("COMMIT")
    os.truncate(checkout.path.with_name(checkout.path.name + "-wal"), 100)
    with pytest.raises(Corrupt):
        store.commit(checkout, head, world.commit())
    assert 1 in rows_of(store)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("place", ["BaseCache.publish", "BaseCache.open_linked"])
def test_a_full_or_read_only_disk_is_unavailable(world, monkeypatch, code, place):
    world.genesis(world.worker("other"))
    store = world.worker()

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(BaseCache, place.split(".")[1], refuse)
        with pytest.raises(Unavailable):
            store.checkout(DATABASE, store.head(DATABASE))
    assert len(rows_of(store)) == 2000


def test_a_disk_that_fills_up_in_a_session_fails_that_session_only(world):
    store = world.worker()
    head = world.genesis(store)
    checkout = store.checkout(DATABASE, head)
    checkout.connection.execute("PRAGMA max_page_count = 150")
    checkout.begin()
    with contextlib.suppress(apsw.FullError):
        checkout.connection.execute("UPDATE t SET v = zeroblob(9000)")
    store.discard(checkout)
    assert len(rows_of(store)) == 2000


def test_the_least_recently_used_bases_are_evicted(world):
    world.genesis(world.worker())
    size = bases(world)[0].stat().st_size
    bases(world)[0].unlink()
    store = world.worker(base_bytes=size * 7 // 2, open_copies=0)
    users = [type(DATABASE)(f"user{n}", DATABASE.kind) for n in range(5)]
    for user in users[:3]:
        world.genesis(store, user)
    assert len(rows_of(store, users[0])) == 2000
    for user in users[3:]:
        world.genesis(store, user)
    present = [user.user for user in users if bases(world, user)]
    assert present == ["user0", "user3", "user4"]
    assert len(rows_of(store, users[1])) == 2000


def test_bases_of_an_earlier_boot_are_dropped(world):
    store = world.worker()
    world.genesis(store)
    (world.root / "local" / "bases" / "~boot").write_text("another boot")
    faults = Faults()
    later = world.worker(objects=faults.objects(world.objects))
    assert len(rows_of(later)) == 2000
    assert faults.count("stream") == 1


def test_what_a_dead_process_left_is_removed_and_the_living_stay(tmp_path):
    living = WorkFolder(tmp_path, "living")
    dead = tmp_path / "99-dead"
    dead.mkdir()
    (dead / "alive").touch()
    (dead / "1.db").write_bytes(b"x")
    other = WorkFolder(tmp_path, "other")
    assert not dead.exists()
    assert living.new_path(".db").parent.exists()
    living.close()
    assert not living.new_path(".db").parent.exists()
    other.close()


def test_an_upload_from_another_disk_is_copied(world, monkeypatch):
    path = make_file(world.root / "upload.db")
    store, replace = world.worker(), type(path).replace

    def refuse(self, target):
        if self == path:
            raise OSError(errno.EXDEV, "another disk")
        return replace(self, target)

    monkeypatch.setattr(type(path), "replace", refuse)
    store.replace(DATABASE, store.head(DATABASE), path, world.commit())
    monkeypatch.undo()
    assert bases(world)[0].read_bytes() == path.read_bytes()
    assert len(rows_of(store)) == 2000


def test_what_a_killed_process_left_goes_with_the_next_start_whatever_the_clock_says(tmp_path):
    alive = WorkFolder(tmp_path / "spool", "alive")
    (alive.path / "upload").touch()
    killed = tmp_path / "spool" / "1-killed"
    (killed / "zip-abc").mkdir(parents=True)
    for path in (tmp_path / "spool" / "of an older version", killed / "zip-abc" / "0", killed / "alive"):
        path.touch()
    for path in (tmp_path / "spool").rglob("*"):
        os.utime(path, (4_000_000_000, 4_000_000_000))
    WorkFolder(tmp_path / "spool", "next").close()
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == [alive.path.name, "lock"]
    assert (alive.path / "upload").exists()
    alive.close()
