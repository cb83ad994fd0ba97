"""The facade: versions, sessions, checkouts that travel, readers that stand still."""

from __future__ import annotations

import apsw
import msgspec
import pytest

from storage.errors import (
    Conflict,
    Corrupt,
    HeadMoved,
    InvalidDatabase,
    NotDurable,
    NotFound,
    SessionLost,
    TooLarge,
    Unavailable,
)
from storage.types import EMPTY_HEAD, EntryKind, run_inline
from tests.support.databases import (
    DATABASE,
    OTHER,
    World,
    bytes_of,
    entry,
    make_file,
    make_store,
    new_session,
    rows_of,
)
from tests.support.faults import Faults


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


def test_a_database_never_written_has_the_empty_head(world):
    assert world.worker().head(DATABASE) == EMPTY_HEAD


def test_a_replaced_file_is_version_one(world):
    store = world.worker()
    head = world.genesis(store)
    assert (head.version, head.token, len(head.chain)) == (1, 1, 1)
    assert head.chain[0].kind == EntryKind.SNAPSHOT
    assert len(rows_of(store)) == 2000


def test_a_fresh_worker_reads_the_same_bytes(world):
    store = world.worker()
    path = make_file(world.root / "upload.db")
    before = path.read_bytes()
    store.replace(DATABASE, store.head(DATABASE), path, world.commit())
    assert not path.exists()
    assert bytes_of(store) == bytes_of(world.fresh()) == before


def test_a_commit_is_one_delta_and_one_head_update(world):
    faults = Faults()
    store = world.worker(heads=faults.heads(world.heads), objects=faults.objects(world.objects))
    head = world.genesis(store)
    checkout = store.checkout(DATABASE, head)
    checkout.begin()
    checkout.connection.execute("UPDATE t SET v = x'00' WHERE id = 5")
    faults.clear()
    head = store.commit(checkout, head, world.commit())
    assert [call.method for call in faults.calls] == ["put", "advance_head"]
    assert [e.kind for e in head.chain] == [EntryKind.SNAPSHOT, EntryKind.DELTA]
    assert checkout.version == head.version == 2
    assert rows_of(world.fresh())[5] == b"\0"


def test_a_short_change_is_committed_where_the_caller_is(world):
    """And what turns out long is not: a delta of many pages, or the whole file."""
    hops = []

    def offload(function):
        hops.append(function)
        return function()

    store = world.worker(offload=offload)
    head = world.genesis(store)
    for change, most in (
        ("UPDATE t SET v = x'00' WHERE id = 5", 0),
        ("UPDATE t SET v = randomblob(length(v))", 1),
    ):
        checkout = store.checkout(DATABASE, head)
        checkout.begin()
        checkout.connection.execute(change)
        hops.clear()
        head = store.commit(checkout, head, world.commit(), executor=run_inline)
        assert len(hops) == most
        store.release(checkout)
    assert rows_of(world.fresh()) == rows_of(store)


def test_the_shared_copy_serves_the_next_sync_without_a_store_call(world):
    faults = Faults()
    store = world.worker(heads=faults.heads(world.heads), objects=faults.objects(world.objects))
    world.genesis(store)
    head = world.change(store, "DELETE FROM t WHERE id = 1")
    faults.clear()
    checkout = store.checkout(DATABASE, head)
    assert faults.calls == []
    store.release(checkout)


def test_commits_alternate_between_workers(world):
    one, two = world.worker("one"), world.worker("two")
    world.genesis(one)
    for n in range(6):
        world.change((one, two)[n % 2], f"UPDATE t SET v = x'0{n}' WHERE id = {n}")
    expected = bytes_of(one)
    assert bytes_of(two) == expected == bytes_of(world.fresh())
    rows = rows_of(two)
    assert [rows[n] for n in range(6)] == [bytes([n]) for n in range(6)]


def test_workers_of_one_host_share_the_base(world):
    one, two = world.worker(), world.worker()
    head = world.genesis(one)
    a, b = one.checkout(DATABASE, head), two.checkout(DATABASE, head)
    assert a.path.stat().st_ino == b.path.stat().st_ino
    for checkout in (a, b):
        checkout.begin()
        checkout.connection.execute("DELETE FROM t WHERE id < 100")
        checkout.rollback()


def test_a_session_commits_under_its_token(world):
    store = world.worker()
    world.genesis(store)
    head = store.sessions.open(DATABASE, new_session("sync"))
    store.sessions.append(DATABASE, "sync", entry("applyChunk", b"body"))
    checkout = store.checkout(DATABASE, head)
    checkout.begin()
    checkout.connection.execute("DELETE FROM t WHERE id = 1")
    flipped = store.commit(checkout, head, world.commit("sync", ("sync", 2)))
    assert (flipped.version, flipped.token, flipped.session) == (2, head.token, None)


def test_an_older_session_cannot_commit(world):
    store = world.worker()
    world.genesis(store)
    old = store.sessions.open(DATABASE, new_session("old"))
    checkout = store.checkout(DATABASE, old)
    checkout.begin()
    checkout.connection.execute("DELETE FROM t")
    store.sessions.open(DATABASE, new_session("new"))
    with pytest.raises(SessionLost):
        store.commit(checkout, old, world.commit("old", ("old", 1)))
    assert not checkout.path.exists()
    assert len(rows_of(store)) == 2000


def test_two_workers_cannot_both_commit_the_same_version(world):
    one, two = world.worker("one"), world.worker("two")
    head = world.genesis(one)
    first, second = one.checkout(DATABASE, head), two.checkout(DATABASE, head)
    first.connection.execute("DELETE FROM t WHERE id = 1")
    second.connection.execute("DELETE FROM t WHERE id = 2")
    one.commit(first, head, world.commit())
    with pytest.raises(Conflict):
        two.commit(second, head, world.commit())
    assert 2 in rows_of(two)
    assert 1 not in rows_of(two)


def test_a_lost_reply_of_the_head_update_is_found_in_the_chain(world):
    faults = Faults()
    store = world.worker(heads=faults.heads(world.heads))
    head = world.genesis(store)
    checkout = store.checkout(DATABASE, head)
    checkout.connection.execute("DELETE FROM t WHERE id = 1")
    faults.fail_next("advance_head", landed=True)
    head = store.commit(checkout, head, world.commit())
    assert head.version == checkout.version == 2
    store.release(checkout)
    assert 1 not in rows_of(store)


@pytest.mark.parametrize("method", ["put", "advance_head"])
def test_a_failed_commit_is_as_if_it_never_happened(world, method):
    faults = Faults()
    store = world.worker(heads=faults.heads(world.heads), objects=faults.objects(world.objects))
    head = world.genesis(store)
    before = bytes_of(store)
    checkout = store.checkout(DATABASE, head)
    checkout.connection.execute("DELETE FROM t WHERE id = 1")
    faults.fail_next(method, landed=False)
    with pytest.raises(Unavailable):
        store.commit(checkout, head, world.commit())
    assert store.head(DATABASE) == head
    assert bytes_of(store) == before
    world.change(store, "DELETE FROM t WHERE id = 2")
    assert 1 in rows_of(world.fresh())


def test_releasing_a_checkout_rolls_its_transaction_back(world):
    store = world.worker(page_cache_bytes=16 << 10)
    head = world.genesis(store)
    before = bytes_of(store)
    checkout = store.checkout(DATABASE, head)
    checkout.begin()
    checkout.connection.execute("UPDATE t SET v = zeroblob(64)")
    store.release(checkout)
    assert bytes_of(store) == before
    world.change(store, "DELETE FROM t WHERE id = 7")
    assert bytes_of(store) == bytes_of(world.fresh())


def test_a_change_of_most_pages_is_a_snapshot_and_its_past_is_history(world):
    store = world.worker()
    first = world.genesis(store)
    head = world.change(store, "UPDATE t SET v = randomblob(60)")
    assert [e.kind for e in head.chain] == [EntryKind.SNAPSHOT]
    assert bytes_of(store) == bytes_of(world.fresh())
    assert [point.version for point in store.history(DATABASE)] == [1, 2]
    assert store.history(DATABASE)[0].chain == first.chain


def test_the_chain_never_outgrows_its_bound(world):
    store = world.worker(chain_deltas=3)
    world.genesis(store)
    lengths = [len(world.change(store, f"DELETE FROM t WHERE id = {n}").chain) for n in range(9)]
    assert lengths == [2, 3, 4, 1, 2, 3, 4, 1, 2]
    assert bytes_of(store) == bytes_of(world.fresh())


def test_a_long_log_is_folded_into_a_new_base(world):
    store = world.worker(rebase_bytes=20_000, rebase_share=1000)
    world.genesis(store)
    head = world.change(store, "DELETE FROM t WHERE id % 40 = 0")
    checkout = store.checkout(DATABASE, head)
    assert checkout.layout.log is None
    store.release(checkout)
    assert bytes_of(store) == bytes_of(world.fresh())


def test_a_reader_keeps_its_version_while_others_commit(world):
    store = world.worker()
    world.genesis(store)
    head = world.change(store, "DELETE FROM t WHERE id = 1")
    expected = bytes_of(store)
    checkout = store.checkout(DATABASE, head)
    reader = checkout.reader()
    blocks = reader.blocks(4096)
    content = next(blocks)
    store.release(checkout)
    for n in range(2, 6):
        world.change(store, f"UPDATE t SET v = zeroblob(3000) WHERE id = {n}")
    world.genesis(store, rows=3)
    assert reader.size_bytes == len(expected)
    assert content + b"".join(blocks) == expected


def test_replace_refuses_a_file_that_is_not_in_wal_mode(world, tmp_path):
    path = tmp_path / "plain.db"
    with apsw.Connection(str(path)) as connection:
        connection.execute("CREATE TABLE t (id)")
    connection.close()
    store = world.worker()
    with pytest.raises(InvalidDatabase):
        store.replace(DATABASE, store.head(DATABASE), path, world.commit())
    assert path.exists()


def test_replace_ends_a_running_session(world):
    store = world.worker()
    world.genesis(store)
    store.sessions.open(DATABASE, new_session("sync"))
    world.genesis(store, rows=5)
    with pytest.raises(SessionLost):
        store.sessions.append(DATABASE, "sync", entry("chunk", b""))
    assert len(rows_of(store)) == 5


def test_an_older_version_that_was_replaced_cannot_be_checked_out(world):
    store = world.worker()
    old = world.genesis(store)
    world.genesis(store, rows=5)
    for stat in list(world.objects.list("v1/")):
        if stat.key.endswith(".snap") and "/s/0000000000000001-" in stat.key:
            world.objects.delete([stat.key])
    with pytest.raises(HeadMoved):
        world.fresh().checkout(DATABASE, old)


def bodies(store):
    """The messages of the running session, in order."""
    return [body for _, body in store.sessions.read_journal(store.head(DATABASE).session)]


def test_large_journal_bodies_go_to_objects(world):
    store = world.worker()
    store.sessions.open(DATABASE, new_session("sync"))
    sent = [b"a" * 9000, b"b" * 100, b"c" * 8192, b"d"]
    for body in sent:
        store.sessions.append(DATABASE, "sync", entry("applyChunk", body))
    journal = store.head(DATABASE).session.journal
    assert [e.key is None for e in journal] == [True, False, True, True, True]
    assert bodies(world.fresh())[1:] == sent


def test_a_long_journal_is_moved_to_objects_and_read_back_in_order(world):
    """The record stays small, however many requests a sync has."""
    store = world.worker(journal_fold_entries=4, journal_fold_bytes=1000)
    store.sessions.open(DATABASE, new_session("sync"))
    sent = [b"%d" % number * 300 for number in range(40)]
    for number, body in enumerate(sent):
        head = store.sessions.append(DATABASE, "sync", entry("applyChunk", body))
        session = head.session
        assert len(session.journal) <= 4, number
        assert sum(len(e.body or b"") for e in session.journal) <= 1000
        assert sum(e.size_bytes for e in session.journal) == sum(map(len, sent[: number + 1]))
        assert head == store.head(DATABASE)
    assert bodies(world.fresh())[1:] == sent


def test_a_fold_that_another_request_overtakes_loses_nothing(world):
    faults = Faults()
    store = world.worker(heads=faults.heads(world.heads), journal_fold_entries=2)
    other = world.worker("other", journal_fold_entries=100)
    store.sessions.open(DATABASE, new_session("sync"))
    store.sessions.append(DATABASE, "sync", entry("applyChunk", b"1"))
    late = iter([b"3"])

    def overtake(call):
        if call.method == "update_session":
            for body in late:
                other.sessions.append(DATABASE, "sync", entry("applyChunk", body))

    faults.watch = overtake
    store.sessions.append(DATABASE, "sync", entry("applyChunk", b"2"))
    assert bodies(world.fresh())[1:] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("limits", [{"journal_entries": 5}, {"journal_bytes": 599}])
def test_a_session_that_grows_over_its_bounds_is_over(world, limits):
    store = world.worker(**limits)
    world.genesis(store)
    store.sessions.open(DATABASE, new_session("sync"))
    for _ in range(4):
        store.sessions.append(DATABASE, "sync", entry("applyChunk", b"x" * 100))
    with pytest.raises(TooLarge):
        store.sessions.append(DATABASE, "sync", entry("applyChunk", b"x" * 200))
    assert store.head(DATABASE).session is None


def test_a_spoilt_object_is_not_believed(world):
    faults = Faults()
    world.genesis(world.worker())
    fresh = world.worker("other", objects=faults.objects(world.objects))
    faults.spoil_next("stream", lambda piece: piece[:5000] + bytes([piece[5000] ^ 1]) + piece[5001:])
    with pytest.raises(Corrupt):
        fresh.checkout(DATABASE, fresh.head(DATABASE))
    assert len(rows_of(fresh)) == 2000


def test_users_do_not_meet(world):
    store = world.worker()
    world.genesis(store, DATABASE, rows=10)
    world.genesis(store, OTHER, rows=20)
    assert (len(rows_of(store, DATABASE)), len(rows_of(store, OTHER))) == (10, 20)


def test_large_deltas_go_through_files_and_pieces(world):
    faults = Faults()
    shape = {"delta_memory_bytes": 0, "fetch_bytes": 1}
    store = world.worker(objects=faults.objects(world.objects), **shape)
    follower = world.worker("follower", objects=faults.objects(world.objects), **shape)
    world.genesis(store, rows=20_000)
    assert len(rows_of(follower)) == 20_000
    world.change(store, "UPDATE t SET v = randomblob(64) WHERE id < 300")
    world.change(store, "DELETE FROM t WHERE id % 900 = 0")
    faults.clear()
    assert bytes_of(follower) == bytes_of(store) == bytes_of(world.fresh())
    assert [call.method for call in faults.calls] == ["stream", "stream"]
    assert not list((world.root / "local").glob("work/*/*.obj"))


def test_deltas_are_fetched_in_groups_that_fit_into_memory(world):
    store = world.worker()
    world.genesis(store)
    chain = [world.change(store, f"DELETE FROM t WHERE id = {n}").chain[-1] for n in range(6)]
    faults = Faults()
    follower = world.worker(
        "follower",
        objects=faults.objects(world.objects),
        fetch_bytes=2 * max(e.size_bytes for e in chain),
    )
    assert bytes_of(follower) == bytes_of(store)
    calls = [call for call in faults.calls if call.method == "read_many"]
    assert 2 <= len(calls) <= 3


def test_a_broken_transfer_is_begun_again(world):
    def breaking(pieces):
        yield next(pieces)[:1000]
        raise Unavailable("the line went dead")

    class Breaking(type(world.objects)):
        breaks = 2

        def stream(self, key):
            self.breaks -= 1
            pieces = world.objects.stream(key)
            return breaking(pieces) if self.breaks >= 0 else pieces

        def read_many(self, keys):
            return world.objects.read_many(keys)

    store = world.worker()
    world.genesis(store)
    world.change(store, "DELETE FROM t WHERE id = 1")
    objects = Breaking()
    follower = world.worker("follower", objects=objects)
    assert bytes_of(follower) == bytes_of(store)
    objects.breaks = 3
    with pytest.raises(Unavailable):
        follower.doctor(DATABASE)
    assert not list((world.root / "follower").glob("work/*/*.base"))


def test_a_base_that_rots_does_not_fail_the_release_of_what_was_committed(world):
    store = world.worker(rebase_bytes=1, rebase_share=10_000)
    head = world.genesis(store)
    checkout = store.checkout(DATABASE, head)
    base = checkout.path
    checkout.connection.execute("UPDATE t SET v = x'01' WHERE id = 3")
    head = store.commit(checkout, head, world.commit())
    with base.open("r+b") as file:
        file.seek(base.stat().st_size // 2)
        file.write(b"rot")
    store.release(checkout)
    assert rows_of(store)[3] == b"\1"
    assert bytes_of(store) == bytes_of(world.fresh())


def test_an_object_that_is_gone_is_said_to_be_gone(world):
    head = world.genesis(world.worker())
    world.objects.delete([stat.key for stat in world.objects.list("v1/")])
    with pytest.raises(NotFound):
        world.fresh().checkout(DATABASE, head)


def test_a_chain_with_a_hole_is_corrupt(world):
    store = world.worker()
    world.genesis(store)
    for n in range(3):
        head = world.change(store, f"DELETE FROM t WHERE id = {n}")
    holed = msgspec.structs.replace(head, chain=(*head.chain[:2], head.chain[3]))
    with pytest.raises(Corrupt):
        world.fresh().checkout(DATABASE, holed)
    with pytest.raises(Corrupt):
        world.fresh().checkout(DATABASE, msgspec.structs.replace(head, chain=head.chain[1:]))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.with_name(path.name + "-wal").write_bytes(b"x" * 100),
        lambda path: path.write_bytes(path.read_bytes() + bytes(4096)),
        lambda path: path.write_bytes(path.read_bytes()[:-4096]),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no database" * 100),
    ],
)
def test_replace_refuses_a_file_that_is_not_whole(world, spoil):
    store = world.worker()
    head = world.genesis(store)
    path = make_file(store.new_path(".upload"), 10)
    spoil(path)
    with pytest.raises(InvalidDatabase):
        store.replace(DATABASE, head, path, world.commit())
    assert store.head(DATABASE) == head


def test_a_journal_entry_without_body_and_key_is_corrupt(world):
    store = world.worker()
    store.sessions.open(DATABASE, new_session("sync"))
    store.sessions.append(DATABASE, "sync", entry("chunk", None))
    with pytest.raises(Corrupt):
        bodies(store)


def test_a_journal_that_was_swept_meanwhile_is_not_found(world):
    store = world.worker(journal_inline_bytes=10)
    store.sessions.open(DATABASE, new_session("sync"))
    store.sessions.append(DATABASE, "sync", entry("applyChunk", b"x" * 20))
    world.objects.delete([stat.key for stat in world.objects.list("v1/")])
    with pytest.raises(NotFound):
        bodies(store)


def merged(world, store, change="DELETE FROM t WHERE id = 1"):
    """A sync up to its prepared commit; the head and the checkout."""
    store.sessions.open(DATABASE, new_session("sync"))
    head = store.sessions.append(DATABASE, "sync", entry("applyChunk", b"body"))
    checkout = store.checkout(DATABASE, head)
    checkout.begin()
    checkout.connection.execute(change)
    commit = world.commit("sync", ("sync", head.session.seq))
    head = store.prepare(checkout, head, commit, b"checked", executor=run_inline)
    store.release(checkout)
    return head


def test_a_prepared_commit_is_no_version_until_it_is_finished(world):
    store, other = world.worker(), world.worker("other")
    before = world.genesis(store)
    head = merged(world, store)
    assert (head.version, head.session.prepared.checked) == (1, b"checked")
    assert 1 in rows_of(world.fresh())
    flipped = other.finish(DATABASE, other.head(DATABASE))
    assert (flipped.version, flipped.token, flipped.session) == (2, before.token + 1, None)
    assert 1 not in rows_of(world.fresh())
    assert 1 not in rows_of(store)


def test_the_copy_of_a_prepared_commit_is_not_taken_for_the_version_before(world):
    store = world.worker()
    world.genesis(store)
    merged(world, store)
    head = store.sessions.open(DATABASE, new_session("another"))
    assert 1 in rows_of(store)
    with pytest.raises(SessionLost):
        store.finish(DATABASE, head)


def test_a_prepared_commit_that_was_taken_over_cannot_be_finished(world):
    store = world.worker()
    world.genesis(store)
    head = merged(world, store)
    store.sessions.open(DATABASE, new_session("another"))
    with pytest.raises(SessionLost):
        store.finish(DATABASE, head)
    assert store.head(DATABASE).version == 1


def test_an_append_behind_a_prepared_commit_makes_it_void(world):
    store = world.worker()
    world.genesis(store)
    head = merged(world, store)
    store.sessions.append(DATABASE, "sync", entry("applyChunk", b"more"))
    with pytest.raises(SessionLost):
        store.finish(DATABASE, head)
    with pytest.raises(SessionLost):
        store.finish(DATABASE, store.head(DATABASE))


def test_a_head_update_that_is_not_durable_is_no_success(world):
    """The record shows the new version, but a power cut may undo it."""

    class Failing(type(world.heads)):
        def advance_head(self, database, update):
            world.heads.advance_head(database, update)
            raise NotDurable("the disk")

        def __getattribute__(self, name):
            own = name == "advance_head" or name.startswith("__")
            return object.__getattribute__(self, name) if own else getattr(world.heads, name)

    world.genesis(world.worker())
    store = world.worker("failing", heads=Failing())
    head = store.head(DATABASE)
    checkout = store.checkout(DATABASE, head)
    checkout.connection.execute("DELETE FROM t WHERE id = 1")
    with pytest.raises(NotDurable):
        store.commit(checkout, head, world.commit())


def test_a_cumulative_delta_brings_a_worker_that_is_behind_up_to_date_by_one_object(world):
    faults = Faults()
    one, two = world.worker("one", cumulative_pages=100), world.worker("two", cumulative_pages=100)
    behind = world.worker("behind", objects=faults.objects(world.objects))
    world.genesis(one)
    rows_of(behind)
    for number in range(9):
        world.change((one, two)[number % 2], f"UPDATE t SET v = zeroblob(3000) WHERE id = {number * 100}")
        rows_of((two, one)[number % 2])
    chain = one.head(DATABASE).chain
    assert chain[-1].first < chain[-1].last
    faults.clear()
    assert bytes_of(behind) == bytes_of(one) == bytes_of(two)
    (fetched,) = [call.subject for call in faults.calls if call.method == "read_many"]
    assert len(fetched.split()) == 1
    assert bytes_of(world.fresh()) == bytes_of(one)
    assert one.doctor(DATABASE).faults == ()


def test_cumulative_deltas_hold_no_more_pages_than_they_may(world):
    store = world.worker(cumulative_pages=12)
    world.genesis(store)
    for number in range(8):
        world.change(store, f"UPDATE t SET v = zeroblob(64) WHERE id = {number * 250}")
        assert bytes_of(store) == bytes_of(world.fresh())
    firsts = [entry.last - entry.first for entry in store.head(DATABASE).chain]
    assert 0 < max(firsts) < 7


def test_compaction_takes_cumulative_deltas(world):
    store = world.worker(cumulative_pages=100, merge_deltas=4, snapshot_percent=1000)
    world.genesis(store)
    for number in range(6):
        world.change(store, f"UPDATE t SET v = zeroblob(64) WHERE id = {number * 250}")
    expected = bytes_of(store)
    assert store.compact(DATABASE)
    chain = store.head(DATABASE).chain
    assert [(entry.first, entry.last) for entry in chain] == [(1, 1), (2, 7)]
    assert bytes_of(world.fresh()) == expected == bytes_of(store)
    world.change(store, "DELETE FROM t WHERE id = 3")
    assert bytes_of(world.fresh()) == bytes_of(store)


def test_configure_sees_every_new_connection(world):
    seen = []
    store = make_store(
        world.heads, world.objects, world.root / "own", world.clock_ms, world.nonce, configure=seen.append
    )
    world.genesis(store)
    head = world.change(store, "DELETE FROM t WHERE id = 1")
    checkout = store.checkout(DATABASE, head)
    assert seen == [checkout.connection]
    store.discard(checkout)
    store.close()


def test_the_memory_of_a_large_change_is_given_back_with_its_commit(world):
    store = world.worker(idle_page_cache_bytes=64 << 10)
    world.genesis(store)

    def cached_bytes_after(change):
        head = world.change(store, change)
        checkout = store.checkout(DATABASE, head)
        used, _ = checkout.connection.status(apsw.SQLITE_DBSTATUS_CACHE_USED)
        store.release(checkout)
        return used

    assert cached_bytes_after("UPDATE t SET v = v || 'x'") <= 64 << 10
    assert cached_bytes_after("DELETE FROM t WHERE id = 1") > 0


def test_connections_are_closed_to_tricks(world):
    store = world.worker()
    head = world.genesis(store)
    checkout = store.checkout(DATABASE, head)
    connection = checkout.connection
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("trusted_schema") == 0
    assert connection.pragma("cell_size_check") == 1
    assert connection.pragma("locking_mode") == "normal"
    assert connection.pragma("wal_autocheckpoint") == 0
    assert connection.pragma("synchronous") == 0
    assert connection.pragma("cache_size") == -8192
    with pytest.raises(apsw.SQLError):
        connection.execute("PRAGMA writable_schema = ON; DELETE FROM sqlite_schema")
    store.discard(checkout)
    assert len(rows_of(store)) == 2000
