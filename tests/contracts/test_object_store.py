"""What every object store promises: see `storage/objects/base.py`."""

from __future__ import annotations

import os
import threading
import time
import uuid

import pytest
from msgspec import structs

from storage.errors import NotFound
from tests.support.waiting import wait_until

MIB = 1 << 20


@pytest.fixture
def place():
    """A prefix of the test's own, since some stores are shared between tests."""
    return f"v1/{uuid.uuid4().hex}"


def keys(objects, prefix):
    return [stat.key for stat in objects.list(prefix)]


def test_what_was_put_is_read(objects, place):
    objects.put(f"{place}/a", b"content")
    assert objects.read(f"{place}/a") == b"content"


def test_a_memoryview_is_put_like_bytes(objects, place):
    objects.put(f"{place}/a", memoryview(b"xxcontentxx")[2:-2])
    assert objects.read(f"{place}/a") == b"content"


def test_an_empty_object_is_an_object(objects, place):
    objects.put(f"{place}/a", b"")
    assert objects.read(f"{place}/a") == b""
    assert list(objects.stream(f"{place}/a")) == []
    assert objects.find(f"{place}/a").size_bytes == 0


def test_the_same_put_again_is_fine(objects, place):
    objects.put(f"{place}/a", b"content")
    objects.put(f"{place}/a", b"content")
    assert objects.read(f"{place}/a") == b"content"
    assert keys(objects, place) == [f"{place}/a"]


def test_a_put_of_what_exists_makes_it_young(objects, place):
    objects.put(f"{place}/a", b"content")
    before = objects.find(f"{place}/a").modified_ms

    def put_again() -> int:
        objects.put(f"{place}/a", b"content")
        return objects.find(f"{place}/a").modified_ms - before

    assert wait_until(put_again) > 0


def test_modified_is_about_now(objects, place):
    objects.put(f"{place}/a", b"content")
    assert abs(objects.find(f"{place}/a").modified_ms - time.time() * 1000) < 60_000


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, 4, b"0123"),
        (3, 4, b"3456"),
        (3, None, b"3456789"),
        (8, 10, b"89"),
        (10, None, b""),
        (12, 4, b""),
        (4, 0, b""),
    ],
)
def test_a_range_is_what_slicing_gives(objects, place, start, length, expected):
    objects.put(f"{place}/a", b"0123456789")
    assert objects.read(f"{place}/a", start, length) == expected


def test_a_range_that_counts_from_the_end_is_refused(objects, place):
    objects.put(f"{place}/a", b"0123456789")
    with pytest.raises(ValueError, match="range"):
        objects.read(f"{place}/a", -2)


def test_reading_what_is_absent_says_not_found(objects, place):
    with pytest.raises(NotFound):
        objects.read(f"{place}/absent")


def test_several_are_read_at_once_and_the_absent_ones_are_none(objects, place):
    objects.put_many([(f"{place}/a", b"1"), (f"{place}/b", b""), (f"{place}/c/d", b"2")])
    names = ("c/d", "absent", "b", "a", "a")
    assert objects.read_many([f"{place}/{name}" for name in names]) == [b"2", None, b"", b"1", b"1"]
    assert objects.read_many([]) == []


def test_streaming_what_is_absent_says_so_before_the_first_piece(objects, place):
    with pytest.raises(NotFound):
        objects.stream(f"{place}/absent")


def test_finding_what_is_absent_gives_none(objects, place):
    assert objects.find(f"{place}/absent") is None


def test_a_folder_is_no_object(objects, place):
    objects.put(f"{place}/a/b", b"content")
    assert objects.find(f"{place}/a") is None


def test_a_stream_comes_in_pieces_of_at_most_a_mebibyte(objects, place):
    content = bytes(range(256)) * (10 * 1024) + b"tail"
    objects.put(f"{place}/a", content)
    pieces = list(objects.stream(f"{place}/a"))
    assert b"".join(pieces) == content
    assert all(0 < len(piece) <= MIB for piece in pieces)


def test_a_stream_of_whole_pieces_ends_after_the_last(objects, place):
    objects.put(f"{place}/a", b"x" * (2 * MIB))
    assert [len(piece) for piece in objects.stream(f"{place}/a")] == [MIB, MIB]


def test_a_stream_may_be_left_early(objects, place):
    objects.put(f"{place}/a", b"x" * (3 * MIB))
    pieces = objects.stream(f"{place}/a")
    assert len(next(pieces)) == MIB
    del pieces


def test_several_are_put_at_once(objects, place):
    items = [(f"{place}/{number % 3}/{number:03}", b"%d" % number * 1000) for number in range(230)]
    objects.put_many(iter(items))
    assert keys(objects, place) == sorted(key for key, _ in items)
    assert all(objects.read(key) == content for key, content in items[::37])


def test_putting_none_at_once_is_fine(objects):
    objects.put_many([])


def test_a_file_is_put(objects, place, tmp_path):
    path = tmp_path / "source"
    content = bytes(range(256)) * 20_000
    path.write_bytes(content)
    objects.put_file(f"{place}/a", path)
    assert objects.read(f"{place}/a") == content
    assert objects.find(f"{place}/a").size_bytes == len(content)


def test_an_old_file_is_a_young_object(objects, place, tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"content")
    os.utime(path, (1, 1))
    objects.put_file(f"{place}/a", path)
    assert abs(objects.find(f"{place}/a").modified_ms - time.time() * 1000) < 60_000


def test_a_listing_tells_size_and_age(objects, place):
    objects.put(f"{place}/a", b"content")
    (stat,) = objects.list(place)
    found = objects.find(f"{place}/a")
    assert structs.replace(stat, now_ms=None) == structs.replace(found, now_ms=None)


def test_a_listing_is_by_key_whatever_the_folders(objects, place):
    names = ["a", "a-b/x", "a.b/x", "a0/x", "b/c/d", "b/c-d", "b/c.d/e", "B/x", "_/x", "a-b/-"]
    objects.put_many([(f"{place}/{name}", b"x") for name in names])
    assert keys(objects, f"{place}/") == sorted(f"{place}/{name}" for name in names)


def test_a_prefix_need_not_end_at_a_slash(objects, place):
    objects.put_many([(f"{place}/{name}", b"x") for name in ["ab/c", "abc", "abd/e/f", "ac", "b"]])
    assert keys(objects, f"{place}/ab") == [f"{place}/ab/c", f"{place}/abc", f"{place}/abd/e/f"]
    assert keys(objects, f"{place}/abc") == [f"{place}/abc"]
    assert keys(objects, f"{place}/abx") == []
    assert keys(objects, f"{place}/ab/c/d") == []


@pytest.mark.thorough  # 1,203 objects; with smaller pages it is among the tests of S3ObjectStore
def test_a_listing_of_more_than_one_page_is_whole(objects, place):
    expected = [f"{place}/{number:04}" for number in range(1203)]
    objects.put_many([(key, b"") for key in expected])
    assert keys(objects, place) == expected


def test_what_was_deleted_is_gone(objects, place):
    objects.put_many([(f"{place}/{name}", b"x") for name in "abc"])
    objects.delete([f"{place}/a", f"{place}/c"])
    assert keys(objects, place) == [f"{place}/b"]
    with pytest.raises(NotFound):
        objects.read(f"{place}/a")


def test_deleting_what_is_absent_is_fine(objects, place):
    objects.delete([f"{place}/absent", f"{place}/x/y/z"])
    objects.delete([])


def test_more_than_a_thousand_are_deleted_at_once(objects, place):
    named = [f"{place}/{number:04}" for number in range(1203)]
    objects.put_many(
        [(key, b"") for key in named[::100] + named[-5:]]
    )  # the others are absent, which is fine
    objects.delete(iter(named))
    assert keys(objects, place) == []


def test_only_what_was_last_written_before_a_time_is_deleted_by_age(objects, place):
    objects.put_many([(f"{place}/a/1", b"x"), (f"{place}/b", b"y")])
    written_ms = objects.find(f"{place}/a/1").modified_ms
    names = [f"{place}/{name}" for name in ("a/1", "absent", "b")]
    assert objects.delete_old(names, written_ms - 60_000) == []
    assert len(keys(objects, place)) == 2
    assert objects.delete_old(names, written_ms + 60_000) == [f"{place}/a/1", f"{place}/b"]
    assert keys(objects, place) == []
    assert objects.delete_old([], written_ms) == []


def test_finding_tells_the_time_by_the_clock_that_dates_objects(objects, place):
    objects.put(f"{place}/a", b"content")
    stat = objects.find(f"{place}/a")
    assert 0 <= stat.now_ms - stat.modified_ms + 1000 < 60_000


def test_a_deleted_key_may_be_put_again(objects, place):
    objects.put(f"{place}/a/b", b"content")
    objects.delete([f"{place}/a/b"])
    objects.put(f"{place}/a/b", b"content")
    assert objects.read(f"{place}/a/b") == b"content"


BAD_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../../b",
    "a/./b",
    "a/..",
    "a\\b",
    "a b",
    "a\nb",
    "a\n",
    "a\0b",
    "ä",
    "%2e%2e/a",
    "x" * 256,
    "/".join(["x" * 100] * 6),
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_leads_astray_is_refused_by_every_method(objects, tmp_path, key):
    path = tmp_path / "source"
    path.write_bytes(b"content")
    calls = [
        lambda: objects.put(key, b""),
        lambda: objects.put_many([("fine", b""), (key, b"")]),
        lambda: objects.put_file(key, path),
        lambda: objects.read(key),
        lambda: objects.read_many(["fine", key]),
        lambda: objects.stream(key),
        lambda: objects.find(key),
        lambda: objects.delete([key]),
        lambda: objects.delete_old([key], 0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="no object key"):
            call()


@pytest.mark.parametrize("prefix", ["/", "../", "a/../", "//", "a//b"])
def test_a_prefix_that_leads_astray_is_refused(objects, prefix):
    with pytest.raises(ValueError, match="no object key"):
        objects.list(prefix)


@pytest.mark.parametrize(
    "key", ["..a", "a..", "...", ".a", "-", "_", "A/b.C-d_e", "x" * 255, "/".join(["x" * 102] * 5)[:512]]
)
def test_every_key_within_the_limits_works(objects, place, key):
    key = f"{place}/{key}"[:512] if len(key) > 300 else f"{place}/{key}"
    objects.put(key, b"content")
    assert objects.read(key) == b"content"
    assert keys(objects, key) == [key]
    objects.delete([key])


def test_another_worker_reads_what_was_put(object_backend, place):
    object_backend.open().put(f"{place}/a", b"content")
    assert object_backend.open().read(f"{place}/a") == b"content"


def test_writers_of_one_key_and_deleters_of_its_neighbours_do_not_disturb_each_other(object_backend, place):
    """All writers of a key bring the same bytes; folders come and go under them."""
    failures = []

    def write(number):
        try:
            store = object_backend.open()
            for turn in range(15):
                store.put(f"{place}/shared", b"same" * 500)
                store.put(f"{place}/folder/{number}", b"own")
                assert store.read(f"{place}/shared") == b"same" * 500
                assert store.read(f"{place}/folder/{number}") == b"own", turn
                store.delete([f"{place}/folder/{number}"])
        except BaseException as exc:  # noqa: BLE001  a thread's failure is the test's
            failures.append(exc)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert keys(object_backend.open(), place) == [f"{place}/shared"]
