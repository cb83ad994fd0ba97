"""The media service keeps its promises: all or nothing, no lost file spreads, small memory."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import FileMissing, ProtocolError, UnknownMethod
from storage.errors import Conflict, HeadMoved, Unavailable
from storage.heads.local import LocalHeadStore
from storage.media.blobs import key_of
from storage.objects.local import LocalObjectStore
from storage.objects.memory import MemoryObjectStore
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline
from tests.app.media.conftest import unzipped

MIB = 1 << 20
DATABASE = DatabaseId(UserId("user"), DatabaseKind.MEDIA)


@pytest.fixture(params=["memory", "local"])
def stores(request, stores, tmp_path):
    if request.param == "memory":
        yield stores
        return
    heads = LocalHeadStore(tmp_path / "heads", run_inline)
    yield heads, LocalObjectStore(tmp_path / "store", run_inline)
    heads.close()


def blob_key(content):
    return key_of(hashlib.sha256(content).digest())


def names(worker, user="user"):
    return [name for name, _, sha1 in worker.call(user, "mediaChanges", {"lastUsn": 0}) if sha1]


def test_begin_tells_the_last_usn_and_gives_the_host_key_back(worker, make_zip):
    assert worker.call("user", "begin", {"v": "x"}, hkey="secret") == {"usn": 0, "sk": "secret"}
    worker.upload("user", make_zip(("a", b"1"), ("b", b"2")))
    assert worker.call("user", "begin", {"v": "x"}, hkey="secret") == {"usn": 2, "sk": "secret"}


def test_answers_have_the_wire_form(worker):
    assert (
        worker.service.call(UserId("user"), "begin", "k", b'{"v":"x"}')
        == b'{"data":{"usn":0,"sk":"k"},"err":""}'
    )
    assert (
        worker.service.call(UserId("user"), "mediaSanity", "k", b'{"local":1}')
        == b'{"data":"mediaSanity","err":""}'
    )


def test_an_unknown_method_is_refused(worker):
    with pytest.raises(UnknownMethod):
        worker.call("user", "uploadChanges", {})


def test_begin_sanity_and_the_last_question_for_changes_need_no_checkout(worker, make_zip, monkeypatch):
    worker.upload("user", make_zip(("a", b"1")))
    monkeypatch.setattr(worker.store, "checkout", None)
    assert worker.call("user", "begin", {"v": "x"})["usn"] == 1
    assert worker.call("user", "mediaSanity", {"local": 1}) == "OK"
    assert worker.call("user", "mediaChanges", {"lastUsn": 1}) == []


def test_a_batch_that_changes_nothing_is_not_committed(worker, make_zip):
    worker.upload("user", make_zip(("a", b"1")))
    before = worker.store.head(DATABASE)
    assert worker.upload("user", make_zip(("a", b"1"), ("missing", None))) == [2, 1]
    assert worker.store.head(DATABASE) == before


def test_removing_files_of_a_new_user_creates_nothing(worker, make_zip):
    assert worker.upload("user", make_zip(("a", None))) == [1, 0]
    assert worker.store.head(DATABASE).version == 0


def test_the_stamps_of_the_head_follow_each_batch(worker, make_zip):
    worker.upload("user", make_zip(("a", b"1"), ("b", b"22")))
    worker.upload("user", make_zip(("a", None)))
    assert worker.store.head(DATABASE).stamps == {"usn": 3, "count": 1, "bytes": 2}


def test_a_content_that_two_users_have_is_kept_once(worker, make_zip):
    worker.upload("one", make_zip(("a", b"shared")))
    worker.upload("two", make_zip(("b", b"shared")))
    assert [stat.key for stat in worker.objects.list("blobs/")] == [blob_key(b"shared")]


def test_a_large_file_goes_up_and_down(worker, make_zip):
    content = bytes(range(256)) * 4096 * 5
    worker.upload("user", make_zip(("small", b"1"), ("large", content)))
    download = worker.service.download_files(UserId("user"), b'{"files":["small","large"]}')
    blocks = list(download.blocks)
    assert sum(map(len, blocks)) == download.size_bytes
    assert max(map(len, blocks)) <= 2 * MIB
    assert worker.request("user", "downloadFiles", b'{"files":["small","large"]}') == (
        200,
        [("small", b"1"), ("large", content)],
    )
    assert not list(worker.scratch.iterdir())


@pytest.mark.parametrize("content", [b"small", bytes(2 * MIB)], ids=["small", "large"])
def test_a_lost_blob_drops_its_row_without_a_tombstone(worker, make_zip, content):
    worker.upload("user", make_zip(("kept", b"1"), ("lost", content)))
    worker.objects.delete([blob_key(content)])
    with pytest.raises(FileMissing):
        worker.download("user", ["kept", "lost"])
    assert worker.call("user", "mediaChanges", {"lastUsn": 0}) == [
        ["kept", 1, hashlib.sha1(b"1").hexdigest()]
    ]
    assert worker.store.head(DATABASE).stamps == {"usn": 2, "count": 1, "bytes": 1}
    assert worker.upload("user", make_zip(("lost", content))) == [1, 3]


@pytest.mark.parametrize("content", [b"small", bytes(2 * MIB)], ids=["small", "large"])
@pytest.mark.parametrize("how", ["a changed bit", "cut short", "longer"])
def test_a_blob_with_other_bytes_is_a_lost_one(worker, make_zip, content, how, caplog):
    worker.upload("user", make_zip(("kept", b"1"), ("spoilt", content)))
    spoilt = {
        "a changed bit": content[:-1] + bytes([content[-1] ^ 1]),
        "cut short": content[:-1],
        "longer": content + b"x",
    }[how]
    worker.objects.put(blob_key(content), spoilt)
    with pytest.raises(FileMissing, match=f"'spoilt'.*{blob_key(content)}.*is lost or damaged"):
        worker.download("user", ["kept", "spoilt"])
    assert f"{blob_key(content)} is not what was uploaded" in caplog.text
    assert names(worker) == ["kept"]
    assert worker.store.head(DATABASE).stamps == {"usn": 2, "count": 1, "bytes": 1}
    # A device sends it again, and everyone gets it.
    assert worker.upload("user", make_zip(("spoilt", content))) == [1, 3]
    assert unzipped(worker.download("user", ["spoilt"])) == [("spoilt", content)]


@pytest.mark.parametrize("content", [b"small", bytes(2 * MIB)], ids=["small", "large"])
def test_a_read_that_goes_wrong_once_loses_nothing(worker, make_zip, content, monkeypatch):
    worker.upload("user", make_zip(("a", content)))
    objects, key, wrong = worker.objects, blob_key(content), [content[:-1] + b"?"]
    read_many, stream = objects.read_many, objects.stream

    def wrong_once(keys):
        return [wrong.pop()] if wrong and key in keys else read_many(keys)

    monkeypatch.setattr(objects, "read_many", wrong_once)
    monkeypatch.setattr(objects, "stream", lambda k: iter([wrong.pop()]) if wrong and k == key else stream(k))
    assert unzipped(worker.download("user", ["a"])) == [("a", content)]
    assert not wrong


def test_a_damaged_blob_that_is_uploaded_anew_meanwhile_is_not_removed(make_worker, clock, make_zip):
    class UploadedMeanwhile(MemoryObjectStore):
        def delete_old(self, keys, before_ms):
            clock.now_ms += 1
            self.put(blob_key(b"x"), b"x")
            return super().delete_old(keys, before_ms)

    objects = UploadedMeanwhile(clock)
    worker = make_worker(objects=objects)
    worker.upload("user", make_zip(("a", b"x")))
    objects.put(blob_key(b"x"), b"y")
    with pytest.raises(FileMissing):
        worker.download("user", ["a"])
    assert objects.read(blob_key(b"x")) == b"x"


def test_a_crash_between_blobs_and_commit_leaves_everything_as_it_was(make_worker, make_zip, monkeypatch):
    worker = make_worker()
    worker.upload("user", make_zip(("a", b"old"), ("b", b"2")))

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(worker.heads, "advance_head", die)
    with pytest.raises(KeyboardInterrupt):
        worker.upload("user", make_zip(("a", b"new"), ("b", None)))
    monkeypatch.undo()
    assert worker.objects.find(blob_key(b"new")) is not None
    other = make_worker()
    assert other.call("user", "begin", {"v": "x"})["usn"] == 2
    assert other.request("user", "downloadFiles", b'{"files":["a","b"]}') == (
        200,
        [("a", b"old"), ("b", b"2")],
    )
    assert other.upload("user", make_zip(("a", b"new"), ("b", None))) == [2, 4]


def test_a_crash_while_blobs_are_written_leaves_everything_as_it_was(make_worker, make_zip, clock):
    class Failing(MemoryObjectStore):
        is_away = False

        def put_many(self, items):
            items = list(items)
            if self.is_away and any(key.startswith("blobs/") for key, _ in items):
                super().put_many(items[:1])
                raise Unavailable("gone")
            super().put_many(items)

    objects = Failing(clock)
    worker = make_worker(objects=objects)
    worker.upload("user", make_zip(("a", b"1")))
    objects.is_away = True
    with pytest.raises(Unavailable):
        worker.upload("user", make_zip(("b", b"2"), ("c", b"3")))
    assert names(worker) == ["a"]
    objects.is_away = False
    assert worker.upload("user", make_zip(("b", b"2"), ("c", b"3"))) == [2, 3]


def test_two_workers_that_commit_at_once_lose_nothing(make_worker, make_zip):
    one, other = make_worker(), make_worker()
    commit = one.store.commit

    def overtaken(*arguments, **keywords):
        one.store.commit = commit
        assert other.upload("user", make_zip(("theirs", b"2"))) == [1, 2]
        return commit(*arguments, **keywords)

    one.upload("user", make_zip(("first", b"1")))
    one.store.commit = overtaken
    assert one.upload("user", make_zip(("ours", b"3"))) == [1, 3]
    assert names(one) == names(other) == ["first", "theirs", "ours"]


def test_two_workers_that_create_a_users_media_at_once_lose_nothing(make_worker, make_zip):
    one, other = make_worker(), make_worker()
    replace = one.store.replace

    def overtaken(*arguments, **keywords):
        one.store.replace = replace
        assert other.upload("user", make_zip(("theirs", b"2"))) == [1, 1]
        return replace(*arguments, **keywords)

    one.store.replace = overtaken
    assert one.upload("user", make_zip(("ours", b"3"))) == [1, 2]
    assert names(one) == ["theirs", "ours"]


def test_an_upload_that_is_overtaken_again_and_again_gives_up(worker, make_zip, monkeypatch):
    def overtaken(*_, **_keywords):
        raise HeadMoved

    worker.upload("user", make_zip(("a", b"1")))
    monkeypatch.setattr(worker.store, "commit", overtaken)
    with pytest.raises(Conflict):
        worker.upload("user", make_zip(("b", b"2")))
    monkeypatch.undo()
    assert names(worker) == ["a"]


def test_many_uploads_at_once_from_two_workers_all_succeed(make_worker, make_zip):
    def upload(worker, prefix):
        for number in range(10):
            worker.upload("user", make_zip((f"{prefix}{number}", b"%d" % number)))

    workers = {"a": make_worker(), "b": make_worker()}
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(upload, worker, prefix) for prefix, worker in workers.items()]
    for one in done:
        one.result()
    for worker in workers.values():
        assert set(names(worker)) == {f"{prefix}{number}" for prefix in workers for number in range(10)}
        assert worker.call("user", "begin", {"v": "x"})["usn"] == 20


def test_an_upload_that_is_overtaken_many_times_waits_and_succeeds(worker, make_zip, monkeypatch):
    worker.upload("user", make_zip(("a", b"1")))
    commit, left, put = worker.store.commit, [HeadMoved] * 12, []

    def overtaken(*arguments, **options):
        put.append(options["extra_objects"])
        if left:
            raise left.pop()
        return commit(*arguments, **options)

    monkeypatch.setattr(worker.store, "commit", overtaken)
    assert worker.upload("user", make_zip(("b", b"2"))) == [1, 2]
    assert 0 < worker.waited_s < 20
    assert [len(objects) for objects in put] == [1] + [0] * 12  # what the first try has put is not put again


def test_users_do_not_see_each_others_files(worker, make_zip):
    worker.upload("one", make_zip(("a", b"1")))
    assert names(worker, "two") == []
    with pytest.raises(FileMissing):
        worker.download("two", ["a"])


def test_a_failed_reading_of_the_index_does_not_spoil_the_next_one(worker, make_zip):
    worker.upload("user", make_zip(("a", b"1")))
    with pytest.raises(ZeroDivisionError):
        worker.gate.read(UserId("user"), lambda _: 1 // 0, otherwise=0)
    with pytest.raises(ZeroDivisionError):
        worker.gate.change(UserId("user"), lambda index: index.apply([("a", None)], 1) and 1 // 0)
    assert names(worker) == ["a"]


def test_more_than_25_names_are_refused_also_for_a_new_user(worker):
    with pytest.raises(ProtocolError):
        worker.download("user", json.dumps({"files": ["a"] * 26}).encode())
