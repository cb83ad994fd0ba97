"""A collection that was brought back is dated so that no device takes it for what it knows."""

from __future__ import annotations

import pytest

from storage.collection.oneway import force_one_way
from storage.collection.package import write_package
from storage.collection.stamps import read_stamps
from storage.errors import Corrupt

NOW_MS = 1_900_000_000_000


def test_times_are_now_and_the_usn_goes_on(open_copy, base_file):
    ours = open_copy(base_file)
    before = read_stamps(ours.db)
    stamps = force_one_way(ours.db, before | {"usn": before["usn"] + 10}, NOW_MS)
    assert (stamps["mod"], stamps["scm"], stamps["usn"]) == (NOW_MS, NOW_MS, before["usn"] + 11)
    assert ours.db.execute("SELECT mod, scm, ls, usn FROM col").get == (NOW_MS,) * 3 + (stamps["usn"],)
    assert {name: stamps[name] for name in before.keys() - {"mod", "scm", "usn"}} == {
        name: before[name] for name in before.keys() - {"mod", "scm", "usn"}
    }


@pytest.mark.parametrize("known", ["mod", "scm"])
def test_a_clock_that_is_behind_makes_later_times_all_the_same(open_copy, base_file, known):
    ours = open_copy(base_file)
    stamps = force_one_way(ours.db, {known: NOW_MS + 5}, NOW_MS)
    assert stamps["mod"] == stamps["scm"] == NOW_MS + 6
    assert force_one_way(ours.db, {}, 1000)["scm"] == NOW_MS + 7


def test_a_stamp_at_the_end_of_64_bits_is_not_passed(open_copy, base_file):
    ours = open_copy(base_file, "UPDATE col SET scm = 9223372036854775807")
    assert force_one_way(ours.db, {"scm": -5}, NOW_MS)["scm"] == NOW_MS


def test_the_usn_of_the_older_state_counts_too(open_copy, base_file):
    ours = open_copy(base_file, "UPDATE col SET usn = 500")
    assert force_one_way(ours.db, {"usn": 7}, NOW_MS)["usn"] == 501


def test_what_the_engine_cannot_open_is_not_packed(tmp_path):
    (tmp_path / "junk.anki2").write_bytes(b"SQLite format 3\0" + b"junk" * 500)
    with pytest.raises(Corrupt):
        write_package(tmp_path / "junk.anki2", tmp_path / "junk.colpkg")
