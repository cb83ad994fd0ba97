"""Odd values in every column of an uploaded collection: what the official server takes, ours takes too.

"Takes" means all of it: the upload, a sync of another device that asks for everything, and both downloads.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from app.sync.messages import CardRow, NoteRow, RevlogRow
from storage.collection.upload import ddl
from tests.differential.samples import connect
from tests.support.servers import Server
from tests.support.wire import Wire

VALUES = {
    "a fraction": "1.5",
    "a fraction below zero": "-1.5",
    "a huge fraction": "1e300",
    "a text": "'x'",
    "a text that begins with a number": "'5 days'",
    "an empty text": "''",
    "a text that is no UTF-8": "cast(x'61ff62' as text)",
    "a text with NUL": "cast(x'610062' as text)",
    "a blob": "x'00'",
    "an empty blob": "x''",
    "NULL": "null",
    **{str(number): str(number) for number in (-2, -1, 0, 7, 255, 256, 65536)},
    "2^31-1": str(2**31 - 1),
    "2^31": str(2**31),
    "-2^31-1": str(-(2**31) - 1),
    "2^32": str(2**32),
    "2^53": str(2**53),
    "2^63-1": str(2**63 - 1),
    "-2^63": "-9223372036854775807 - 1",
}
ONE_ROW = {
    "graves": "oid = 1",
    "config": "key = 'schedVer'",
    "tags": "true",
    "fields": "ord = 0",
    "templates": "ord = 0",
}
ROWS = {"revlog": RevlogRow, "cards": CardRow, "notes": NoteRow}
USN_AT = {"revlog": 2, "cards": 5, "notes": 4}
STEPS = (
    ("meta", {"v": 11, "cv": "tests"}),
    ("start", {"minUsn": 0, "lnewer": False, "graves": None}),
    ("applyChanges", {"changes": {"models": [], "decks": [[], []], "tags": []}}),
)
LIMIT = 40  # cases of the quick run


class Case(NamedTuple):
    table: str
    column: str
    value: str


REFUSED = {
    # a device at this USN, or below 0, would never be sent what others change
    Case("col", "usn", value)
    for value in ("-1", "-2", "2^31-1")
}
CASES = [
    Case(table.name, column, value)
    for table in ddl.tables(ddl.LATEST)
    for column in table.columns
    for value in VALUES
]
QUICK = random.Random(1).sample(CASES, LIMIT)


@pytest.fixture(scope="module")
def base(collections: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd") / "base.anki2"
    path.write_bytes(collections[1])
    with contextlib.closing(connect(path)) as db:
        db.execute("update col set usn = 5")
        db.execute("insert into graves values (1, 1, 1), (2, 2, 2)")
    return path


def _spoiled(base: Path, case: Case, folder: Path) -> bytes | None:
    """The collection with one value in one row; None where SQLite does not let it in."""
    path = folder / "odd.anki2"
    path.write_bytes(base.read_bytes())
    with contextlib.closing(connect(path)) as db:
        where = ONE_ROW.get(case.table, f"rowid = (select min(rowid) from {case.table})")
        try:
            changed = db.execute(
                f"update {case.table} set {case.column} = {VALUES[case.value]} where {where}"
            )
        except (sqlite3.Error, UnicodeDecodeError):  # the latter from the collation
            return None
        assert changed.rowcount == 1, case
        db.execute("vacuum")
    return path.read_bytes()


class Side:
    """A server, and a user of it who uploads one collection after another."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._wire = self._of_new_user()

    def _of_new_user(self) -> Wire:
        user, wire = self._server.next_user(), Wire(self._server.port, skey="odd uploads")
        wire.login(user.name, user.password)
        return wire

    def end(self) -> None:
        self._wire.connection.close()

    def take(self, collection: bytes) -> tuple[str, dict[str, list[Any]]]:
        """The method that failed, or nothing; and the rows that another device gets."""
        answer = self._wire.upload(collection)
        if not answer.ok:  # what the official server has stored before cannot even be replaced
            self.end()
            self._wire = self._of_new_user()
        if answer.body != b"OK":
            return "upload", {}
        for method, payload in STEPS:
            if not self._wire.call(method, payload).ok:
                return method, {}
        rows = self._chunks()
        if rows is None:
            return "chunk", {}
        if not self._wire.call("download", {}).ok or not self._wire.legacy("download", {}).ok:
            return "download", {}
        return "", rows

    def _chunks(self) -> dict[str, list[Any]] | None:
        rows: dict[str, list[Any]] = {table: [] for table in ROWS}
        while (answer := self._wire.call("chunk", {})).ok:
            for table in ROWS:
                rows[table] += answer.json.get(table, [])
            if answer.json["done"]:
                return {table: sorted(found) for table, found in rows.items()}
        return None


def _without_usn(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {
        table: [[*row[: USN_AT[table]], *row[USN_AT[table] + 1 :]] for row in found]
        for table, found in rows.items()
    }


@pytest.mark.parametrize("cases", [QUICK, pytest.param(CASES, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.timeout(1800)
def test_what_the_official_server_takes_is_taken_and_nothing_that_fails_later(
    official: Server, examined: Server, base: Path, tmp_path: Path, cases: list[Case]
) -> None:
    with contextlib.ExitStack() as stack:
        sides = Side(official), Side(examined)
        for side in sides:
            stack.callback(side.end)
        faults = {case: _fault(*sides, case, base, tmp_path) for case in cases}
    assert {case: fault for case, fault in faults.items() if fault} == {}


def _is_as_good(rows: dict[str, list[Any]], expected: dict[str, list[Any]], case: Case) -> bool:
    """The official server never sends a row with a USN below -1; ours makes a USN of it, and sends it."""
    if case.column == "usn":
        return all(row in rows[table] for table in ROWS for row in expected[table])
    return rows == expected


def _fault(theirs: Side, ours: Side, case: Case, base: Path, folder: Path) -> str:
    """What is wrong with how ours treats a value; empty if nothing is."""
    collection = _spoiled(base, case, folder)
    if collection is None:
        return ""
    expected, expected_rows = theirs.take(collection)
    found, rows = ours.take(collection)
    if found not in {"", "upload"}:
        return f"fails later, in {found}"
    if case in REFUSED:
        return "" if found else "taken"
    if not expected and found:
        return "refused"
    if not expected and not _is_as_good(_without_usn(rows), _without_usn(expected_rows), case):
        return f"rows differ: {rows} instead of {expected_rows}"
    for table, kind in ROWS.items() if not found else ():
        msgspec.convert(rows[table], list[kind])  # type: ignore[valid-type]  # raises if clients could not read it
    return ""
