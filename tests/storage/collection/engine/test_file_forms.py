"""The first bytes of files, new collections, and collections for old clients."""

from __future__ import annotations

import shutil

import pytest

from storage.collection.engine.downgrade import downgrade
from storage.collection.engine.empty import create_empty
from storage.collection.upload.header import mark_as_wal, read_header
from storage.errors import Corrupt, InvalidDatabase


def test_a_new_collection_is_in_wal_mode_and_alone(tmp_path):
    path = tmp_path / "new.anki2"
    create_empty(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes()[18:20] == b"\x02\x02"
    assert read_header(path).is_tidy


def test_a_new_collection_is_what_the_official_server_starts_with(duel, empty_file, session):
    official, ours = duel.official(empty_file, session(min_usn=0)), duel.ours(empty_file, session(min_usn=0))
    assert ours == official


def test_a_header_tells_page_size_and_count(empty_file):
    header = read_header(empty_file)
    assert header.page_size == 4096
    assert header.page_count * 4096 == empty_file.stat().st_size


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (18, b"\x01\x02"),  # read and write versions that differ
        (20, b"\x08"),  # reserved bytes
        (24, b"\x00\x00\xff\xff"),  # a writer that did not know of the page count
        (36, b"\x00\x00\x00\x01"),  # a free page
        (52, b"\x00\x00\x00\x01"),  # auto-vacuum
        (56, b"\x00\x00\x00\x02"),  # UTF-16
    ],
)
def test_what_is_unusual_is_not_tidy(empty_file, tmp_path, offset, value):
    content = bytearray(empty_file.read_bytes())
    content[offset : offset + len(value)] = value
    path = tmp_path / "odd.anki2"
    path.write_bytes(content)
    assert not read_header(path).is_tidy


@pytest.mark.parametrize("size", [b"\x00\x00", b"\x00\x02", b"\x01\x00", b"\x10\x01", b"\xff\xff"])
def test_a_page_size_that_cannot_be_is_refused(empty_file, tmp_path, size):
    content = bytearray(empty_file.read_bytes())
    content[16:18] = size
    path = tmp_path / "odd.anki2"
    path.write_bytes(content)
    with pytest.raises(InvalidDatabase):
        read_header(path)


def test_marking_as_wal_changes_two_bytes(empty_file, tmp_path):
    content = bytearray(empty_file.read_bytes())
    content[18:20] = b"\x01\x01"
    path = tmp_path / "plain.anki2"
    path.write_bytes(content)
    mark_as_wal(path)
    assert path.read_bytes() == empty_file.read_bytes()


def test_a_downgrade_gives_schema_11_in_one_file(base_file, tmp_path, connect):
    path = tmp_path / "old.anki2"
    shutil.copy(base_file, path)
    downgrade(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes()[18:20] == b"\x01\x01"
    with connect(path) as db:
        assert db.execute("SELECT ver FROM col").get == 11
        assert db.execute("PRAGMA integrity_check").get == "ok"
        assert '"Basic"' in db.execute("SELECT models FROM col").get
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert tables - {"sqlite_stat1", "sqlite_stat4"} == {"col", "notes", "cards", "revlog", "graves"}


def test_a_downgrade_that_the_engine_cannot_do_is_told(base_file, tmp_path, connect):
    path = tmp_path / "old.anki2"
    shutil.copy(base_file, path)
    with connect(path) as db:
        db.execute("UPDATE decks SET kind = x'' WHERE id = 1")
    with pytest.raises(Corrupt):
        downgrade(path)


def test_a_downgrade_of_no_collection_is_told(tmp_path):
    path = tmp_path / "old.anki2"
    path.write_bytes(b"nothing of the kind" * 500)
    with pytest.raises(Corrupt):
        downgrade(path)
