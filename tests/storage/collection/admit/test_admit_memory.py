"""A large upload is checked, or built anew, within little memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from storage.collection.engine.downgrade import downgrade

MEBIBYTE = 2**20
ALLOWED_BYTES = 64 * MEBIBYTE

ADMIT = """
import pathlib, resource, sys
from storage.collection.upload.admit import admit
from storage.collection.engine.codec import Codec
codec = Codec()
codec.strip_html(["<b>"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
admit(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), codec)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""

REFUSE = ADMIT.replace(
    "admit(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), codec)",
    """try:
    admit(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), codec)
except Exception as exc:
    print(exc, file=sys.stderr)
""",
)

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"

NOTES = f"""
    {NUMBERS.format(40_000)} INSERT INTO notes SELECT i + 1000, i, (SELECT id FROM notetypes LIMIT 1),
    1, 1, '', hex(randomblob(1000)), i, i, 0, '' FROM n
"""

REVIEWS = f"""
    {NUMBERS.format(300_000)} INSERT INTO revlog
    SELECT i + 10000, abs(random() % 40000), 1, 1, 1, 1, 1, 1, 1 FROM n
"""


STATISTICS = f"""
    {NUMBERS.format(40_000)} INSERT INTO sqlite_stat4
    SELECT 'cards', 'ix_cards_usn', '1 1', '1 1', '1 1', x'030606' || zeroblob(1000) FROM n
"""


def _peak_bytes(path, into):
    ran = subprocess.run(
        [sys.executable, "-c", ADMIT, str(path), str(into)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return int(ran.stdout)


def test_statistics_of_any_size_take_no_memory(upload, tmp_path):
    path = upload("ANALYZE", STATISTICS)
    assert path.stat().st_size > 40 * MEBIBYTE
    assert _peak_bytes(path, tmp_path / "into.anki2") < 20 * MEBIBYTE


def test_a_long_text_takes_little_memory(upload, tmp_path, connect):
    path = upload()
    with connect(path) as db:
        db.execute("UPDATE notes SET flds = ? WHERE id = (SELECT min(id) FROM notes)", ("x" * 2**26 + "💡",))
        db.execute("VACUUM")
    assert _peak_bytes(path, tmp_path / "into.anki2") < 20 * MEBIBYTE


LISTS = f"replace(hex(zeroblob({9_000_000})), '00', '[],')"
DENSE = {
    "config": f"UPDATE config SET val = CAST('[' || {LISTS} || '0]' AS blob) WHERE key = 'nested'",
    "a deck": f"UPDATE decks SET common = CAST('[' || {LISTS} || '0]' AS blob) WHERE id = 1",
}


@pytest.mark.parametrize("statement", DENSE.values(), ids=DENSE.keys())
def test_values_that_decode_to_many_objects_are_refused_unread(upload, tmp_path, statement):
    """27 MB of empty lists take 600 MB when they are decoded."""
    ran = subprocess.run(
        [sys.executable, "-c", REFUSE, str(upload(statement)), str(tmp_path / "into.anki2")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "too many" in ran.stderr
    assert int(ran.stdout) < 150 * MEBIBYTE


@pytest.mark.slow
@pytest.mark.parametrize("change", ["SELECT 1", "CREATE TABLE mine (x)", "schema 11"])
def test_memory_does_not_follow_the_size_of_the_upload(upload, tmp_path, connect, change):
    path = upload(NOTES, REVIEWS, *([] if change == "schema 11" else [change]))
    if change == "schema 11":
        downgrade(path)
    assert path.stat().st_size > 1.3 * ALLOWED_BYTES
    assert _peak_bytes(path, tmp_path / "into.anki2") < ALLOWED_BYTES
