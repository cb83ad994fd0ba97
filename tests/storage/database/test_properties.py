"""Whatever SQL does, the versions are what SQLite itself would have written."""

from __future__ import annotations

import shutil

import apsw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.databases import DATABASE, World, bytes_of

OPERATIONS = st.one_of(
    st.tuples(st.just("insert"), st.integers(1, 400), st.integers(0, 3000)),
    st.tuples(st.just("update"), st.integers(1, 60), st.integers(0, 2000)),
    st.tuples(st.just("delete"), st.integers(1, 12), st.integers(0, 11)),
    st.tuples(st.just("rolled back"), st.integers(1, 400), st.integers(0, 3000)),
    st.tuples(st.just("table"), st.integers(0, 3), st.integers(0, 300)),
    st.tuples(st.just("drop"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("vacuum"), st.integers(1, 50), st.just(0)),
)
COUNT = "WITH RECURSIVE counted (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM counted WHERE i < :count)"
COMMITS = st.lists(st.lists(OPERATIONS, max_size=4), min_size=1, max_size=5)


def run(connection, operation, first, second):
    if operation == "insert":
        connection.execute(
            f"{COUNT} INSERT INTO t (v) SELECT randomblob(:size) FROM counted",
            {"count": first, "size": second},
        )
    elif operation == "update":
        connection.execute("UPDATE t SET v = zeroblob(?) WHERE id % ? = 0", (second, first))
    elif operation == "delete":
        connection.execute("DELETE FROM t WHERE id % ? <= ?", (first, second))
    elif operation == "rolled back":
        connection.execute("SAVEPOINT s")
        run(connection, "insert", first, second)
        connection.execute("ROLLBACK TO s; RELEASE s")
    elif operation == "table":
        connection.execute(f"CREATE TABLE IF NOT EXISTS extra{first} (v)")
        connection.execute(
            f"{COUNT} INSERT INTO extra{first} SELECT randomblob(900) FROM counted", {"count": second}
        )
    elif operation == "drop":
        connection.execute(f"DROP TABLE IF EXISTS extra{first}")
    else:
        connection.execute(f"PRAGMA incremental_vacuum({first})").fetchall()


def work(connection, operations, ending):
    if ending == "VACUUM":
        connection.execute("VACUUM")
    connection.execute("BEGIN")
    for operation in operations:
        run(connection, *operation)
    if ending == "ROLLBACK":
        connection.execute("ROLLBACK")
        connection.execute("UPDATE t SET v = 1 WHERE id = (SELECT min(id) FROM t)")


def checkpointed(checkout, folder):
    """What SQLite's own checkpoint makes of the copy's files."""
    path = folder / "oracle.db"
    for suffix in ("", "-wal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
        source = checkout.path.with_name(checkout.path.name + suffix)
        if source.exists():
            shutil.copyfile(source, path.with_name(path.name + suffix))
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert connection.pragma("integrity_check") == "ok"
    connection.close()
    return path.read_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    commits=COMMITS,
    endings=st.lists(st.sampled_from(["COMMIT", "COMMIT", "ROLLBACK", "VACUUM"]), min_size=5, max_size=5),
    page_size=st.sampled_from([512, 1024, 4096, 8192, 65536]),
    auto_vacuum=st.integers(0, 2),
    cache=st.sampled_from([8 << 10, 2 << 20]),
    rows=st.sampled_from([0, 10, 1500]),
)
def test_commits_equal_sqlites_own_checkpoint(
    tmp_path_factory, commits, endings, page_size, auto_vacuum, cache, rows
):
    root = tmp_path_factory.mktemp("world")
    world = World(root)
    # One that commits, one that follows by deltas, one that compacts, and fresh ones.
    store = world.worker("one", page_cache_bytes=cache, snapshot_percent=100_000, merge_deltas=2)
    follower = world.worker("two")
    try:
        head = world.genesis(store, rows=rows, page_size=page_size, auto_vacuum=auto_vacuum)
        for operations, ending in zip(commits, endings, strict=False):
            checkout = store.checkout(DATABASE, head)
            work(checkout.connection, operations, ending)
            head = store.commit(checkout, head, world.commit())
            expected = checkpointed(checkout, root)
            store.release(checkout)
            found = bytes_of(store)
            assert found == expected
            assert bytes_of(follower) == found
            assert bytes_of(world.fresh()) == found
            store.compact(DATABASE)
            assert bytes_of(world.fresh()) == found
            head = store.head(DATABASE)
    finally:
        world.close()
        shutil.rmtree(root)
