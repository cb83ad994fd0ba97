"""Our words for Anki's schema are those of the engine."""

from __future__ import annotations

import pytest
from anki._backend import RustBackend

from storage.collection.upload import ddl


def objects(db):
    return db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()


def test_schema_18_is_what_the_engine_makes(empty_file, connect):
    with connect(empty_file) as db:
        assert ddl.is_latest(objects(db))


@pytest.mark.parametrize("version", [11, 18])
def test_tables_have_the_columns_that_the_engine_gives_them(tmp_path, connect, version):
    path = tmp_path / "col.anki2"
    backend = RustBackend(langs=["en"], server=True)
    backend.open_collection(collection_path=str(path), media_folder_path="", media_db_path="")
    backend.close_collection(downgrade_to_schema11=version == 11)
    with connect(path) as db:
        found = {
            name: tuple(
                column.lower() for (column,) in db.execute("SELECT name FROM pragma_table_info(?)", (name,))
            )
            for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            if not name.startswith("sqlite_")
        }
        statements = dict(db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'"))
    for table in ddl.tables(version):
        assert found.pop(table.name) == tuple(column.lower() for column in table.columns)
        assert ddl.normalised(statements[table.name]) == ddl.normalised(table.sql)
    assert found == {}


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE mine (x)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TRIGGER t AFTER INSERT ON cards BEGIN SELECT 1; END",
        "CREATE INDEX i ON cards (mod)",
        "DROP INDEX ix_cards_usn",
        "DROP TABLE graves",
        "ALTER TABLE cards ADD COLUMN x",
        "DROP INDEX ix_cards_usn; CREATE INDEX ix_cards_usn ON cards (usn, id)",
        "DROP INDEX ix_cards_usn; CREATE INDEX ix_cards_usn ON notes (usn)",
        "DROP INDEX idx_decks_name; CREATE INDEX idx_decks_name ON decks (name)",
    ],
)
def test_any_other_object_is_told_apart(open_copy, empty_file, change):
    ours = open_copy(empty_file)
    ours.db.execute(change)
    assert not ddl.is_latest(objects(ours.db))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("create table X (\n  a integer,  -- why\n b text )", "CREATE TABLE x(a integer, b text)"),
        ("CREATE TABLE x (a /* one */ integer)", "CREATE TABLE x (a integer)"),
        ("CREATE INDEX i ON c (o) WHERE o != 0", "CREATE INDEX i ON c (o)\nWHERE o!=0"),
    ],
)
def test_statements_that_differ_in_layout_are_the_same(left, right):
    assert ddl.normalised(left) == ddl.normalised(right)


@pytest.mark.parametrize(
    "hidden",
    [
        'CREATE TABLE x (a integer, b text "/*", evil CHECK (1) "*/")',
        "CREATE TABLE x (a integer, b text [--], evil\n)",
        "CREATE TABLE x (a integer, b text, `/*` text DEFAULT '*/')",
        "CREATE TABLE x (a integer, b text)\x00, evil",
    ],
)
def test_a_comment_within_quotes_hides_nothing(hidden):
    assert ddl.normalised(hidden) != ddl.normalised("CREATE TABLE x (a integer, b text)")
