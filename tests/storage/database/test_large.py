"""A file beyond 1 GiB, where SQLite leaves one page out."""

from __future__ import annotations

import resource

import apsw
import pytest

from storage.database.format.pages import lock_page
from storage.objects.local import LocalObjectStore
from storage.types import run_inline
from tests.support.databases import DATABASE, World


@pytest.mark.slow
def test_a_database_may_grow_over_the_page_that_sqlite_skips(tmp_path):
    world = World(tmp_path, objects=LocalObjectStore(tmp_path / "store", run_inline))
    store = world.worker()
    path = store.new_path(".upload")
    connection = apsw.Connection(str(path))
    connection.execute(
        "PRAGMA page_size = 65536; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF"
    ).fetchall()
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    for n in range(1010):
        connection.execute("INSERT INTO t VALUES (?, zeroblob(1 << 20))", (n,))
    connection.pragma("wal_checkpoint(TRUNCATE)")
    connection.close()
    head = world.genesis_from(store, path)
    assert head.page_count < lock_page(65536)
    for n in range(1010, 1030):
        head = world.change(store, f"INSERT INTO t VALUES ({n}, randomblob(300000))")
        if n < 1014:
            head = world.change(store, f"INSERT INTO t VALUES ({n + 1000}, zeroblob(1 << 20))")
    assert head.page_count > lock_page(65536)
    fresh = world.fresh()
    checkout = fresh.checkout(DATABASE, head)
    assert checkout.connection.pragma("integrity_check") == "ok"
    assert checkout.connection.execute("SELECT count(*) FROM t").get == 1034
    assert fresh.doctor(DATABASE).faults == ()
    store.compact(DATABASE)
    assert store.doctor(DATABASE).faults == ()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 400 << 10
    world.close()
