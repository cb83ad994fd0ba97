"""What only the head store in an SQLite file does: durability, checkpoints, the file's own format."""

from __future__ import annotations

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import apsw
import pytest

from storage.errors import Corrupt, NotDurable, SessionLost, StorageError, Unavailable
from storage.heads.base import SessionUpdate
from storage.heads.local import APPLICATION_ID, LocalHeadStore
from storage.types import run_inline
from tests.support.records import collection_of, head_update_of, journal_entry, new_session, snapshot

DATABASE = collection_of("user")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "heads.db"


@pytest.fixture
def store(path):
    store = LocalHeadStore(path, run_inline)
    yield store
    store.close()


@pytest.fixture
def synced(monkeypatch):
    """The number of syncs so far, as a list of descriptors."""
    calls = []
    monkeypatch.setattr(os, "fdatasync", calls.append)
    return calls


def test_only_what_must_survive_a_power_cut_waits_for_the_disk(store, synced):
    token = store.open_session(DATABASE, new_session()).token
    store.append(DATABASE, "session", journal_entry())
    store.close_session(DATABASE, token, "session")
    store.find(DATABASE)
    assert synced == []
    head = store.advance_head(DATABASE, head_update_of(0, token))
    assert len(synced) == 1
    store.replace_chain(DATABASE, head.token, head.chain_revision, head.chain)
    assert len(synced) == 2
    store.delete(DATABASE)
    assert len(synced) == 3


def test_a_repeated_head_update_is_durable_too(store, synced):
    """The first one may have landed and not been synced."""
    store.advance_head(DATABASE, head_update_of(0, 0))
    store.advance_head(DATABASE, head_update_of(0, 0))
    assert len(synced) == 2


def test_the_file_and_its_wal_hold_a_head_update_when_it_returns(store, path, tmp_path):
    head = store.advance_head(DATABASE, head_update_of(0, 0))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("heads.db", "heads.db-wal"):
        shutil.copy(path.parent / name, copy / name)
    after = LocalHeadStore(copy / "heads.db", run_inline)
    assert after.find(DATABASE) == head
    after.close()


def test_a_torn_end_of_the_wal_costs_only_the_last_writes(store, path, tmp_path):
    head = store.advance_head(DATABASE, head_update_of(0, 0))
    size = (path.parent / "heads.db-wal").stat().st_size
    store.open_session(DATABASE, new_session())
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("heads.db", "heads.db-wal"):
        shutil.copy(path.parent / name, copy / name)
    with (copy / "heads.db-wal").open("r+b") as wal:
        wal.truncate(size + 100)
    after = LocalHeadStore(copy / "heads.db", run_inline)
    assert after.find(DATABASE) == head
    after.close()


def test_the_file_is_as_it_was_after_opening_it_again(path):
    first = LocalHeadStore(path, run_inline)
    head = first.advance_head(DATABASE, head_update_of(0, 0))
    first.close()
    second = LocalHeadStore(path, run_inline)
    assert second.find(DATABASE) == head
    second.close()


def test_durable_writes_go_through_the_offload(path):
    offloaded = []

    def offload(function):
        offloaded.append(function)
        return function()

    store = LocalHeadStore(path, offload)
    token = store.open_session(DATABASE, new_session()).token
    assert offloaded == []
    store.advance_head(DATABASE, head_update_of(0, token))
    assert len(offloaded) == 1
    store.close()


def test_a_sync_that_failed_is_not_made_good_by_a_later_one(store, monkeypatch):
    def fail(_):
        raise OSError(5, "Input/output error")

    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(NotDurable, match="Input/output error"):
        store.advance_head(DATABASE, head_update_of(0, 0))
    monkeypatch.setattr(os, "fdatasync", real)
    before = store.find(DATABASE)
    for write in (
        lambda: store.advance_head(DATABASE, head_update_of(1, 1)),
        lambda: store.open_session(DATABASE, new_session()),
        lambda: store.replace_chain(DATABASE, 1, 1, (snapshot(1),)),
        lambda: store.delete(DATABASE),
    ):
        with pytest.raises(Unavailable, match="start the server again"):
            write()
    assert store.find(DATABASE) == before


def test_a_repeated_head_update_whose_sync_failed_is_not_taken_for_durable(store, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(NotDurable):
        store.advance_head(DATABASE, head_update_of(0, 0))
    with pytest.raises(Unavailable):
        store.advance_head(DATABASE, head_update_of(0, 0))


def test_the_wal_does_not_grow_by_writes_that_need_not_be_durable(store, path):
    """An endless sync must not fill the disk."""
    store.open_session(DATABASE, new_session())
    sizes = []
    for _ in range(4):
        for _ in range(1500):
            head = store.append(DATABASE, "session", journal_entry(body=bytes(4000)))
            empty = SessionUpdate(journal=())
            store.update_session(DATABASE, head.token, "session", head.session.seq, empty)
        sizes.append((path.parent / "heads.db-wal").stat().st_size)
    assert max(sizes) < 8 * 2000 * 4096
    assert sizes[-1] <= max(sizes[:2])


def test_the_wal_does_not_grow_for_ever(store, path):
    big = [journal_entry(body=bytes(2048)) for _ in range(7)]
    sizes = []
    for round_number in range(6):
        for number in range(300):
            database = collection_of(f"user{number % 50}")
            session = f"{round_number}-{number}"
            store.open_session(database, new_session(session))
            for _ in range(3):
                store.append(database, session, big[number % 7])
        store.advance_head(DATABASE, head_update_of(round_number, round_number))
        sizes.append((path.parent / "heads.db-wal").stat().st_size)
    assert max(sizes) < 4 * 2000 * 4096
    assert sizes[-1] <= max(sizes[:2])


def test_another_file_is_not_taken_for_ours(path):
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(Corrupt, match="application id"):
        LocalHeadStore(path, run_inline)


def test_a_file_that_is_no_database_is_named(path):
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(Corrupt, match=r"heads\.db"):
        LocalHeadStore(path, run_inline)


def test_a_file_of_a_newer_format_is_refused_with_what_to_do(path):
    LocalHeadStore(path, run_inline).close()
    newer = apsw.Connection(str(path))
    assert newer.pragma("application_id") == APPLICATION_ID
    newer.pragma("user_version", 2)
    newer.close()
    with pytest.raises(StorageError, match=r"format version 2.*newer"):
        LocalHeadStore(path, run_inline)


def test_a_record_that_cannot_be_read_is_named(store, path):
    store.advance_head(DATABASE, head_update_of(0, 0))
    other = apsw.Connection(str(path))
    other.execute("UPDATE heads SET record = x'93010203'")
    other.close()
    with pytest.raises(Corrupt, match="user/collection"):
        store.find(DATABASE)
    with pytest.raises(Corrupt, match="user/collection"):
        store.open_session(DATABASE, new_session())


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Unavailable, match="absent"):
        LocalHeadStore(tmp_path / "absent" / "heads.db", run_inline)


def test_a_listing_of_more_than_one_page_is_whole(store):
    everyone = [collection_of(f"user-{number:04}") for number in range(1203)]
    for database in everyone:
        store.open_session(database, new_session())
    assert list(store.list()) == everyone


def test_what_is_known_of_a_record_gives_way_to_what_another_process_wrote(store, path):
    other = LocalHeadStore(path, run_inline)
    store.open_session(DATABASE, new_session("mine"))
    other.open_session(DATABASE, new_session("theirs"))
    with pytest.raises(SessionLost):
        store.append(DATABASE, "mine", journal_entry())
    other.append(DATABASE, "theirs", journal_entry())
    assert store.find(DATABASE) == other.find(DATABASE)
    store.append(DATABASE, "theirs", journal_entry())
    other.append(DATABASE, "theirs", journal_entry())
    assert store.find(DATABASE).session.seq == 4
    other.close()


def test_a_session_that_only_seems_lost_goes_on(store, path):
    """What is known may be older than a session that another process has begun and handed over."""
    other = LocalHeadStore(path, run_inline)
    store.advance_head(DATABASE, head_update_of(0, 0))
    other.open_session(DATABASE, new_session("new"))
    store.append(DATABASE, "new", journal_entry())
    assert other.find(DATABASE).session.seq == 2
    other.close()


def test_a_record_that_was_deleted_elsewhere_is_made_anew(store, path):
    other = LocalHeadStore(path, run_inline)
    store.advance_head(DATABASE, head_update_of(0, 0))
    other.delete(DATABASE)
    assert store.open_session(DATABASE, new_session()).version == 0
    other.close()


def test_writers_that_wait_at_the_same_time_share_a_sync(path, synced):
    """The first to come syncs alone; all that come meanwhile share the next one."""
    first_runs, may_end = threading.Event(), threading.Event()

    def offload(function):
        if not first_runs.is_set():
            first_runs.set()
            assert may_end.wait(30)
        return function()

    store = LocalHeadStore(path, offload)
    databases = [collection_of(f"user{number}") for number in range(6)]
    with ThreadPoolExecutor(6) as threads:
        updates = [threads.submit(store.advance_head, databases[0], head_update_of(0, 0))]
        assert first_runs.wait(30)
        updates += [
            threads.submit(store.advance_head, database, head_update_of(0, 0)) for database in databases[1:]
        ]
        while store._written < len(databases):  # all are in the WAL
            time.sleep(0.001)
        may_end.set()
        assert [update.result().version for update in updates] == [1] * 6
    assert len(synced) == 2
    store.close()
