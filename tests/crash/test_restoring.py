"""A restore dies at any store call, or the call fails before or after it landed.

Then a fresh process looks: the newest version is the one before or the restored one, whole, every
version can still be brought back, and the same restore done again ends as it should.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import Settings
from app.history import Restorer
from app.main import Stores, build_collections, build_gate, build_restorer, build_stores, new_nonce, now_ms
from storage.collection.schema import configure
from storage.collection.stamps import read_stamps
from storage.errors import StorageError
from storage.media.blobs import Blobs
from storage.media.index import MediaIndex
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline
from tests.support.databases import make_store
from tests.support.faults import Faults
from tests.support.past import change_media, content_of, make_collection

ANN = UserId("ann")
COLLECTION, MEDIA = DatabaseId(ANN, DatabaseKind.COLLECTION), DatabaseId(ANN, DatabaseKind.MEDIA)
WANTED = 1
DATABASES = pytest.mark.parametrize("database", [COLLECTION, MEDIA], ids=["collection", "media"])


@contextlib.contextmanager
def opened(root: Path, faults: Faults) -> Iterator[tuple[Restorer, Stores]]:
    """As `ankisyncctl` has it, over stores that fail or die."""
    stores = build_stores(
        Settings.from_env({"ANKISYNCD_DATA_ROOT": str(root)}), None, offload=run_inline, clock_ms=now_ms
    )
    objects = faults.objects(stores.blobs._objects)
    databases = make_store(
        faults.heads(stores.heads), objects, root / "faulty", now_ms, new_nonce, configure=configure
    )
    blobs = Blobs(objects, fresh_ms=0)
    faulty = dataclasses.replace(stores, databases=databases, blobs=blobs)
    # nothing is surely kept by the history, so that every content is renewed
    try:
        restorer = build_restorer(faulty, build_gate(faulty, offload=run_inline), offload=run_inline)
        yield dataclasses.replace(restorer, scratch=root, history_ms=-1_000_000_000), faulty
    finally:
        databases.close()
        stores.close()


def restore(root: Path, database: DatabaseId, faults: Faults) -> None:
    with opened(root, faults) as (found, _stores):
        if database is COLLECTION:
            found.restore_collection(ANN, WANTED)
        else:
            found.restore_media(ANN, WANTED, exact=False)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Three versions of each database; the wanted one has what the newest has not."""
    folder = tmp_path_factory.mktemp("restoring")
    root = folder / "data"
    settings = Settings.from_env({"ANKISYNCD_DATA_ROOT": str(root)})
    with opened(root, Faults()) as (_found, stores):
        collections = build_collections(settings, stores, offload=run_inline)
        for words in (["one", "two"], ["three"]):
            collections.upload(ANN, make_collection(folder / f"{words[0]}.anki2", words))
        collections.download(ANN, 11, b"{}").blocks.close()
        for changes in ({"gone": b"gone", "kept": b"kept"}, {"gone": None}, {"later": b"later"}):
            change_media(stores, ANN, folder, changes)
    return root


CONTENTS = {
    COLLECTION: [{"one", "two"}, {"three"}, {"three"}],
    MEDIA: [{"gone", "kept"}, {"kept"}, {"kept", "later"}],
}
RESTORED = {COLLECTION: {"one", "two"}, MEDIA: {"gone", "kept", "later"}}


def assert_sound(root: Path, database: DatabaseId, *, done: bool | None) -> None:
    """`done`: whether the restore was told to be; None where it is not known."""
    with opened(root, Faults()) as (_found, stores):
        head = stores.databases.head(database)
        assert head.version in ({3, 4} if done is None else {4} if done else {3})
        expected = [*CONTENTS[database], RESTORED[database]]
        versions = [point.version for point in stores.databases.history(database)]
        assert versions == list(range(1, head.version + 1))
        for version in versions:
            assert content_of(stores, database, version) == expected[version - 1], version
        assert stores.databases.doctor(database).faults == ()
        if head.version == 4:
            assert_dated(stores, database)
        for name, facts in files_of(stores):
            assert stores.blobs._objects.find(f"blobs/{facts.sha256.hex()}"), name


def assert_dated(stores: Stores, database: DatabaseId) -> None:
    """The stamps tell the truth, and devices see that something is new."""
    head = stores.databases.head(database)
    checkout = stores.databases.checkout(database, head)
    try:
        if database is MEDIA:
            assert (
                head.stamps == MediaIndex(checkout.connection).stamps() == {"usn": 5, "count": 3, "bytes": 13}
            )
            return
        assert head.stamps == read_stamps(checkout.connection)
    finally:
        stores.databases.discard(checkout)
    (before,) = (point for point in stores.databases.history(database) if point.version == 3)
    checkout = stores.databases.checkout_restore_point(database, before)
    stamps = read_stamps(checkout.connection)
    stores.databases.discard(checkout)
    assert all(head.stamps[name] > stamps[name] for name in ("mod", "scm", "usn"))


def files_of(stores: Stores):
    checkout = stores.databases.checkout(MEDIA, stores.databases.head(MEDIA))
    files = list(MediaIndex(checkout.connection).list_files())
    stores.databases.release(checkout)
    return files


def copied(prepared: Path, into: Path) -> Path:
    shutil.copytree(prepared, into)
    return into


def count_calls(prepared: Path, into: Path, database: DatabaseId) -> int:
    faults = Faults()
    restore(copied(prepared, into), database, faults)
    assert_sound(into, database, done=True)
    return len(faults.calls)


@DATABASES
@pytest.mark.parametrize("landed", [False, True], ids=["before", "after"])
def test_every_call_fails_once_and_the_restore_is_done_or_not(prepared, tmp_path, database, landed):
    for number in range(1, count_calls(prepared, tmp_path / "count", database) + 1):
        root, faults = copied(prepared, tmp_path / str(number)), Faults()
        faults.fail(number, landed=landed)
        try:
            restore(root, database, faults)
        except StorageError:
            done = None if landed else False
        else:
            done = True
        assert_sound(root, database, done=done)
        if done is not True:
            assert_repeatable(root, database)


def assert_repeatable(root: Path, database: DatabaseId) -> None:
    restore(root, database, Faults())
    with opened(root, Faults()) as (_found, stores):
        assert content_of(stores, database) == RESTORED[database]


def restore_and_die(root: Path, kind: str, number: int) -> None:
    """In a process of its own: die at a store call, or when all are done and nothing is told yet."""
    faults = Faults()

    def die(call) -> None:
        if call.number == number:
            os.kill(os.getpid(), signal.SIGKILL)

    faults.watch = die
    restore(root, COLLECTION if kind == "collection" else MEDIA, faults)
    os.kill(os.getpid(), signal.SIGKILL)


@DATABASES
def test_a_process_killed_at_any_call_leaves_one_version_or_the_other(prepared, tmp_path, database):
    total, seen = count_calls(prepared, tmp_path / "count", database), set()
    for number in range(1, total + 2):
        root = copied(prepared, tmp_path / str(number))
        code = (
            "from pathlib import Path; from tests.crash import test_restoring as t;"
            f"t.restore_and_die(Path({str(root)!r}), {database.kind.value!r}, {number})"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, timeout=60, cwd=Path(__file__).parents[2]
        )
        assert done.returncode == -signal.SIGKILL
        assert_sound(root, database, done=None)
        with opened(root, Faults()) as (_found, stores):
            seen.add(stores.databases.head(database).version)
        assert_repeatable(root, database)
    assert seen == {3, 4}
