"""The media index keeps USNs, tombstones and totals as the protocol wants them."""

import contextlib
import hashlib
import zlib

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import Corrupt
from storage.media.index import GONE_KEPT_S, FileFacts, FileRow, MediaIndex, create_empty


def facts(content: bytes) -> FileFacts:
    return FileFacts(
        hashlib.sha1(content).digest(), hashlib.sha256(content).digest(), zlib.crc32(content), len(content)
    )


def row(name: str, content: bytes) -> FileRow:
    return FileRow(name, hashlib.sha256(content).digest(), zlib.crc32(content), len(content))


@pytest.fixture
def index(tmp_path):
    create_empty(tmp_path / "media")
    with contextlib.closing(apsw.Connection(str(tmp_path / "media"))) as connection:
        yield MediaIndex(connection)


def test_an_empty_index_is_the_same_bytes_every_time_and_in_wal_mode(tmp_path):
    create_empty(tmp_path / "a")
    create_empty(tmp_path / "b")
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    assert content[16:20] == b"\x10\x00\x02\x02"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_schema_of_another_version_is_refused(tmp_path):
    with contextlib.closing(apsw.Connection(str(tmp_path / "other"))) as connection:
        connection.pragma("user_version", 2)
        with pytest.raises(Corrupt):
            MediaIndex(connection)


def test_each_added_file_takes_one_usn(index):
    assert index.apply([("a", facts(b"1")), ("b", facts(b"22"))], 5)
    assert index.stamps() == {"usn": 2, "count": 2, "bytes": 3}


def test_the_same_content_again_changes_nothing(index):
    index.apply([("a", facts(b"1"))], 5)
    assert not index.apply([("a", facts(b"1"))], 6)
    assert index.stamps()["usn"] == 1


def test_removing_what_is_absent_changes_nothing(index):
    assert not index.apply([("a", None)], 5)
    index.apply([("a", facts(b"1")), ("a", None)], 5)
    assert not index.apply([("a", None)], 5)
    assert index.stamps() == {"usn": 2, "count": 0, "bytes": 0}


def test_of_a_name_that_comes_twice_the_last_one_stays(index):
    index.apply([("a", facts(b"1")), ("a", facts(b"22"))], 5)
    assert index.find_many(["a"]) == [row("a", b"22")]
    assert index.stamps() == {"usn": 2, "count": 1, "bytes": 2}


def test_a_replaced_file_moves_to_the_end_of_the_changes(index):
    index.apply([("a", facts(b"1")), ("b", facts(b"2")), ("a", facts(b"3"))], 5)
    assert [change[:2] for change in index.changes_since(0)] == [("b", 2), ("a", 3)]


def test_a_tombstone_has_an_empty_sum_and_a_file_a_lower_case_one(index):
    index.apply([("a", facts(b"1")), ("b", facts(b"2")), ("a", None)], 5)
    assert index.changes_since(0) == [("b", 2, hashlib.sha1(b"2").hexdigest()), ("a", 3, "")]


def test_changes_come_in_pages_by_usn(index):
    index.apply([(f"{number:04}", facts(b"x")) for number in range(1100)], 5)
    first = index.changes_since(0)
    second = index.changes_since(first[-1][1])
    assert len(first) == 1000
    assert [usn for _, usn, _ in first + second] == list(range(1, 1101))
    assert index.changes_since(1100) == []


def test_a_file_that_returns_after_its_removal_counts_again(index):
    index.apply([("a", facts(b"1")), ("a", None), ("a", facts(b"1"))], 5)
    assert index.stamps() == {"usn": 3, "count": 1, "bytes": 1}
    assert [usn for _, usn, _ in index.changes_since(0)] == [3]


def test_names_are_compared_byte_by_byte(index):
    index.apply([("A", facts(b"1")), ("a", facts(b"2")), ("a\0b", facts(b"3"))], 5)
    found = index.find_many(["A", "a", "a\0b", "a\0c"])
    assert found == [row("A", b"1"), row("a", b"2"), row("a\0b", b"3"), None]


def test_a_dropped_row_leaves_neither_tombstone_nor_usn(index):
    index.apply([("a", facts(b"1")), ("b", facts(b"22"))], 5)
    assert index.drop_rows([row("b", b"22")])
    assert index.changes_since(0) == [("a", 1, hashlib.sha1(b"1").hexdigest())]
    assert index.stamps() == {"usn": 2, "count": 1, "bytes": 1}
    index.apply([("c", facts(b"1"))], 5)
    assert index.changes_since(1)[0][:2] == ("c", 3)


def test_a_row_with_another_content_by_now_is_not_dropped(index):
    index.apply([("a", facts(b"1")), ("a", facts(b"2"))], 5)
    assert not index.drop_rows([row("a", b"1")])
    assert index.stamps() == {"usn": 2, "count": 1, "bytes": 1}


def contents(index, time_s):
    return {
        name
        for name in (b"1", b"2", b"3", b"4")
        if hashlib.sha256(name).digest() in index.contents_since(time_s)
    }


def test_contents_are_known_until_long_after_they_went(index):
    index.apply([("a", facts(b"1")), ("b", facts(b"2")), ("c", facts(b"3"))], 5)
    index.apply([("a", None)], 10)
    index.apply([("b", facts(b"4"))], 20)
    assert contents(index, 10) == {b"1", b"2", b"3", b"4"}
    assert contents(index, 11) == {b"2", b"3", b"4"}
    assert contents(index, 21) == {b"3", b"4"}


def test_contents_that_went_very_long_ago_are_forgotten(index):
    index.apply([("a", facts(b"1")), ("a", None)], 10)
    index.apply([("b", facts(b"2")), ("b", None)], 10 + GONE_KEPT_S)
    assert contents(index, 0) == {b"1", b"2"}
    index.apply([("c", facts(b"3"))], 11 + GONE_KEPT_S)
    assert contents(index, 0) == {b"1", b"2", b"3"}  # by a clock that only one change has seen
    index.apply([("d", facts(b"4"))], 11 + GONE_KEPT_S)
    assert contents(index, 0) == {b"2", b"3", b"4"}


def test_a_loss_is_not_dated_by_a_clock_that_is_behind(index):
    index.apply([("a", facts(b"1"))], 1000)
    index.apply([("a", None)], 10)
    assert contents(index, 1000) == {b"1"}


def test_contents_of_a_version_that_is_given_up_can_be_remembered(index):
    index.remember([hashlib.sha256(b"1").digest()], 10)
    assert contents(index, 10) == {b"1"}
    assert contents(index, 11) == set()


CHANGES = st.lists(
    st.tuples(st.sampled_from("abcdé"), st.none() | st.binary(min_size=1, max_size=2)), max_size=8
)


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(CHANGES, max_size=8))
def test_any_batches_leave_what_a_dictionary_says(tmp_path_factory, batches):
    path = tmp_path_factory.mktemp("model") / "media"
    create_empty(path)
    model: dict[str, tuple[int, bytes | None]] = {}
    versions: list[set[bytes]] = []
    usn = 0
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.pragma("synchronous", "off")
        index = MediaIndex(connection)
        for time_s, batch in enumerate(batches):
            before = usn
            for name, content in batch:
                if model.get(name, (0, None))[1] != content:
                    usn += 1
                    model[name] = (usn, content)
            assert index.apply([(n, None if c is None else facts(c)) for n, c in batch], time_s) == (
                usn > before
            )
            files = {name: content for name, (_, content) in model.items() if content is not None}
            assert index.stamps() == {
                "usn": usn,
                "count": len(files),
                "bytes": sum(map(len, files.values())),
            }
            assert index.recount() == index.stamps()
            versions.append({facts(content).sha256 for content in files.values()})
            for since_s, version in enumerate(versions):
                assert version <= set(index.contents_since(since_s))
            assert index.changes_since(0) == sorted(
                ((n, u, "" if c is None else hashlib.sha1(c).hexdigest()) for n, (u, c) in model.items()),
                key=lambda change: change[1],
            )
            assert index.find_many(list("abcdé")) == [
                row(name, files[name]) if name in files else None for name in "abcdé"
            ]


def test_an_index_is_restored_with_the_usns_that_clients_know(index):
    index.restore([(3, "a", facts(b"1"), 50), (7, "gone", None, 51), (8, "b", facts(b"22"), 52)], 12)
    assert index.stamps() == {"usn": 12, "count": 2, "bytes": 3}
    assert [(name, usn) for name, usn, _ in index.changes_since(3)] == [("gone", 7), ("b", 8)]
    index.apply([("c", facts(b"333"))], 60)
    assert index.changes_since(8) == [("c", 13, hashlib.sha1(b"333").hexdigest())]


def test_rows_restored_with_one_usn_move_up_and_pass_the_last_one_given(index):
    index.restore([(3, "a", facts(b"1"), 50), (3, "b", facts(b"2"), 50), (3, "c", None, 50)], 3)
    assert [usn for _, usn, _ in index.changes_since(0)] == [3, 4, 5]
    assert index.stamps()["usn"] == 5


@pytest.fixture
def older(tmp_path):
    create_empty(tmp_path / "older")
    with contextlib.closing(apsw.Connection(str(tmp_path / "older"))) as connection:
        yield MediaIndex(connection)


def test_what_an_older_version_has_and_this_one_has_not_comes_back_under_new_usns(index, older):
    before = [("a", facts(b"1")), ("b", facts(b"22")), ("c", facts(b"333"))]
    for each in (index, older):
        each.apply(before, 5)
    index.apply([("a", None), ("b", facts(b"new")), ("d", facts(b"later"))], 6)
    missing = list(index.missing_from(older))
    assert missing == [("a", facts(b"1")), ("b", facts(b"22"))]
    assert index.apply(missing, 7)
    assert [usn for _, usn, _ in index.changes_since(5)] == [6, 7, 8]
    assert dict(index.list_files()) == dict(before) | {"d": facts(b"later")}
    assert list(index.missing_from(older)) == []
    assert list(index.added_since(older)) == ["d"]
    assert hashlib.sha256(b"new").digest() in set(index.contents_since(7))


def test_asking_to_compare_gives_a_usn_of_a_name_that_no_file_has(index):
    index.apply([("_ankisyncd-compare-2", facts(b"1"))], 5)
    index.ask_to_compare(6)
    assert index.changes_since(1) == [("_ankisyncd-compare-2_", 2, "")]
    assert index.stamps() == {"usn": 2, "count": 1, "bytes": 1}
    assert index.recount() == index.stamps()


def test_counting_anew_sets_totals_right_and_never_lowers_the_usn(index):
    index.apply([("a", facts(b"1")), ("b", facts(b"22"))], 5)
    assert not index.count_anew()
    index.drop_rows([row("b", b"22")])
    index._connection.execute("UPDATE totals SET files = 9, bytes = 9")
    assert index.count_anew()
    assert index.stamps() == {"usn": 2, "count": 1, "bytes": 1}
