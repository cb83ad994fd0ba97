"""A stranger's file is opened so that it can neither act nor take for ever."""

from __future__ import annotations

import apsw
import pytest

from storage.collection.upload import untrusted
from storage.collection.upload.untrusted import open_hostile
from storage.errors import InvalidDatabase

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


def test_nothing_can_be_written(empty_file):
    before = empty_file.read_bytes()
    with pytest.raises(InvalidDatabase), open_hostile(empty_file) as db:
        db.execute("DELETE FROM decks")
    assert empty_file.read_bytes() == before


def test_a_query_that_takes_too_long_is_ended(empty_file, monkeypatch):
    monkeypatch.setattr(untrusted, "_PATIENCE_S", 0)
    with pytest.raises(InvalidDatabase, match="Interrupt"), open_hostile(empty_file) as db:
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        ).fetchall()


def test_a_value_that_is_too_long_is_not_read(empty_file):
    with pytest.raises(InvalidDatabase, match="TooBig"), open_hostile(empty_file) as db:
        db.execute("SELECT zeroblob(33 * 1024 * 1024)").fetchall()


def test_views_are_not_run(open_copy, empty_file):
    ours = open_copy(empty_file)
    ours.db.execute("ROLLBACK")
    ours.db.execute("CREATE VIEW v AS SELECT 1")
    with pytest.raises(InvalidDatabase), open_hostile(ours.path) as db:
        db.execute("SELECT * FROM v").fetchall()


def test_a_path_may_hold_any_character(empty_file, tmp_path):
    path = tmp_path / "50% off? #1 é.anki2"
    path.write_bytes(empty_file.read_bytes())
    with open_hostile(path) as db:
        assert db.execute("SELECT ver FROM col").get == 18


def test_our_own_faults_are_not_blamed_on_the_file(empty_file):
    with pytest.raises(ZeroDivisionError), open_hostile(empty_file):
        _ = 1 / 0


def test_the_file_is_closed_afterwards(empty_file):
    with open_hostile(empty_file) as db:
        pass
    with pytest.raises(apsw.ConnectionClosedError):
        db.execute("SELECT 1")
