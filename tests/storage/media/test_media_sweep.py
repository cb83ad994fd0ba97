"""A sweep deletes what nobody names and has been there for long, and nothing else."""

import contextlib
import hashlib
import itertools

import apsw
import pytest

from storage.database.store import Commit
from storage.errors import DeletionUnsafe
from storage.heads.memory import MemoryHeadStore
from storage.media.blobs import Blobs, Digester, NewBlob, key_of
from storage.media.index import GONE_KEPT_S, MediaIndex, create_empty
from storage.media.sweep import Contents, Swept, names_since_s, read_contents, sweep_blobs
from storage.objects.memory import MemoryObjectStore
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline
from tests.support.clock import Clock
from tests.support.databases import make_store

GRACE_MS = 10_000
HISTORY_MS = 30 * 24 * 3600 * 1000
TWO_DAYS_MS = 2 * 24 * 3600 * 1000


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def objects(clock):
    return MemoryObjectStore(clock)


@pytest.fixture
def blobs(objects, clock):
    return Blobs(objects, fresh_ms=GRACE_MS // 2)


def put(blobs, *contents):
    blobs.put_new([NewBlob(hashlib.sha256(content).digest(), content) for content in contents])


def has(objects, content):
    return objects.find(key_of(hashlib.sha256(content).digest())) is not None


@contextlib.contextmanager
def index_of(path, *contents):
    create_empty(path)
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        index = MediaIndex(connection)
        for content in contents:
            digester = Digester()
            digester.update(content)
            index.apply([(f"{content!r}", digester.facts())], 1)
        yield index


def sweep(objects, clock, tmp_path, indexes, **limits):
    """`indexes`: media indexes, or what is known of one."""
    since_s = names_since_s(clock(), HISTORY_MS)
    contents = (
        index if isinstance(index, Contents) else Contents(list(index.contents_since(since_s)))
        for index in indexes
    )
    return sweep_blobs(
        objects, contents, now_ms=clock(), grace_ms=GRACE_MS, scratch=tmp_path, offload=run_inline, **limits
    )


def test_only_old_blobs_that_no_index_names_are_deleted(blobs, clock, objects, tmp_path):
    put(blobs, b"of one user", b"of another", b"nobody's")
    clock.now_ms += GRACE_MS + 1
    put(blobs, b"nobody's, but young")
    with index_of(tmp_path / "a", b"of one user") as one, index_of(tmp_path / "b", b"of another") as other:
        assert sweep(objects, clock, tmp_path, [one, other]) == Swept(
            named=2, kept=3, deleted=1, deleted_bytes=8
        )
    assert all(has(objects, content) for content in (b"of one user", b"of another", b"nobody's, but young"))
    assert not has(objects, b"nobody's")


def test_nothing_is_deleted_when_an_index_cannot_be_read(blobs, clock, objects, tmp_path):
    def indexes():
        with index_of(tmp_path / "a") as index:
            yield index
        raise OSError("a version is away")

    put(blobs, b"x")
    clock.now_ms += GRACE_MS + 1
    with pytest.raises(OSError, match="a version is away"):
        sweep(objects, clock, tmp_path, indexes())
    assert has(objects, b"x")
    assert not list(tmp_path.glob("marks-*"))


def test_a_blob_that_an_upload_met_during_the_marking_survives(blobs, clock, objects, tmp_path):
    """The upload commits after its database was marked: the blob is named by nobody the sweep saw."""

    def indexes():
        with index_of(tmp_path / "a") as index:
            yield index
        put(blobs, b"x")
        clock.now_ms += GRACE_MS * 10  # however long the marking takes

    put(blobs, b"x")
    clock.now_ms += GRACE_MS + 1
    assert sweep(objects, clock, tmp_path, indexes()).deleted == 0
    assert has(objects, b"x")


def test_a_blob_rewritten_while_the_sweep_lists_survives(clock, tmp_path):
    class RewrittenMeanwhile(MemoryObjectStore):
        def list(self, prefix):
            stats = list(super().list(prefix))
            put(uploads, b"x")
            return iter(stats)

    objects = RewrittenMeanwhile(clock)
    uploads = Blobs(objects, fresh_ms=GRACE_MS // 2)
    put(uploads, b"x")
    clock.now_ms += GRACE_MS + 1
    assert sweep(objects, clock, tmp_path, []).deleted == 0
    assert has(objects, b"x")


def test_what_is_no_blob_by_its_key_is_left_alone(clock, objects, tmp_path):
    for key in ("blobs/README", "blobs/00/" + "1" * 64, "blobs/00", "other/thing"):
        objects.put(key, b"?")
    clock.now_ms += GRACE_MS + 1
    assert sweep(objects, clock, tmp_path, []) == Swept(named=0, kept=3, deleted=0, deleted_bytes=0)


def test_a_removed_file_can_be_brought_back_as_long_as_history_reaches(blobs, clock, objects, tmp_path):
    put(blobs, b"x")
    with index_of(tmp_path / "a", b"x") as index:
        index.apply([(f"{b'x'!r}", None)], clock.now_ms // 1000)
        clock.now_ms += HISTORY_MS
        assert sweep(objects, clock, tmp_path, [index]).deleted == 0
        clock.now_ms += TWO_DAYS_MS
        assert sweep(objects, clock, tmp_path, [index]).deleted == 1


def test_a_history_longer_than_the_indexes_remember_is_refused(clock):
    with pytest.raises(ValueError, match="longer"):
        names_since_s(clock(), GONE_KEPT_S * 1000)


def test_a_blob_that_is_uploaded_right_before_the_delete_survives(clock, tmp_path):
    """The last moment at which an upload can come: the sweep has decided what it deletes."""

    class UploadedMeanwhile(MemoryObjectStore):
        def delete_old(self, keys, before_ms):
            put(uploads, b"x")
            return super().delete_old(keys, before_ms)

    objects = UploadedMeanwhile(clock)
    uploads = Blobs(objects, fresh_ms=GRACE_MS // 2)
    put(uploads, b"x", b"nobody's")
    clock.now_ms += GRACE_MS + 1
    assert sweep(objects, clock, tmp_path, []).deleted == 1
    assert has(objects, b"x")


def test_nothing_is_deleted_when_much_less_is_named_than_at_the_last_run(blobs, clock, objects, tmp_path):
    put(blobs, b"one", b"two")
    clock.now_ms += GRACE_MS + 1
    with index_of(tmp_path / "a", b"one") as index:
        with pytest.raises(DeletionUnsafe, match="only 1 contents are named"):
            sweep(objects, clock, tmp_path, [index], least_named=2)
        assert has(objects, b"two")
        assert sweep(objects, clock, tmp_path, [index], least_named=1).deleted == 1


def test_what_a_database_may_have_named_since_it_could_last_be_read_is_kept(clock, objects, blobs, tmp_path):
    put(blobs, b"named then", b"old garbage")
    clock.now_ms += 5 * TWO_DAYS_MS
    until_ms = clock()
    put(blobs, b"may be named since")
    clock.now_ms += 5 * TWO_DAYS_MS
    known = Contents([hashlib.sha256(b"named then").digest()], until_ms)
    swept = sweep(objects, clock, tmp_path, [known])
    assert (swept.deleted, swept.unreadable) == (1, 1)
    assert has(objects, b"named then")
    assert has(objects, b"may be named since")


def test_the_newest_index_of_every_user_is_marked(blobs, clock, objects, tmp_path):
    heads = MemoryHeadStore()
    nonces = itertools.count()
    (tmp_path / "cache").mkdir()
    store = make_store(heads, objects, tmp_path / "cache", clock, lambda: f"{next(nonces)}")
    for user in ("one", "two"):
        content = f"of {user}".encode()
        put(blobs, content)
        with index_of(tmp_path / user, content) as index:
            stamps = index.stamps()
        commit = Commit(commit_id=user, answer=b"", now_ms=clock(), stamps=stamps, session=None)
        database = DatabaseId(UserId(user), DatabaseKind.MEDIA)
        store.replace(database, store.head(database), tmp_path / user, commit)
    put(blobs, b"nobody's")
    clock.now_ms += GRACE_MS + 1
    since_s = names_since_s(clock(), HISTORY_MS)
    read = (read_contents(store, found, since_s, run_inline, is_doubtful=False) for found in heads.list())
    assert sweep(objects, clock, tmp_path, read).deleted == 1
    assert has(objects, b"of one")
    assert has(objects, b"of two")
    store.close()
