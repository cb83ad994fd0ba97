"""The log: what SQLite wrote is read back exactly, what is not its next frame is refused."""

from __future__ import annotations

import os
import shutil
import struct

import apsw
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.database.local import wal
from storage.errors import Corrupt

SALTS = b"saltsalt"


def open_live(path):
    connection = apsw.Connection(str(path))
    connection.execute(
        "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0"
    ).fetchall()
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


@pytest.fixture
def live(tmp_path):
    """A file, its log of three transactions, and how many frames SQLite says it has."""
    counts = []
    connection = open_live(tmp_path / "live.db")
    connection.set_wal_hook(lambda _c, _n, frames: counts.append(frames) or 0)
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    with connection:
        connection.executemany("INSERT INTO t VALUES (?, randomblob(200))", ((n,) for n in range(1, 101)))
    connection.execute("DELETE FROM t WHERE id > 50")
    yield tmp_path / "live.db-wal", counts
    connection.close()


def read_all(path, end, state=None):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        state = state or wal.read_header(descriptor)
        return wal.read_frame_headers(descriptor, state, end)
    finally:
        os.close(descriptor)


def spoil(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    copy = path.with_name("spoilt-wal")
    copy.write_bytes(content)
    return copy


def test_all_frames_of_sqlite_are_found(live):
    path, counts = live
    pages, commits, state = read_all(path, counts[-1])
    assert len(pages) == state.frames == counts[-1]
    assert [n + 1 for n, commit in enumerate(commits) if commit] == counts


def test_reading_may_begin_behind_any_frame(live):
    path, counts = live
    whole, _, last = read_all(path, counts[-1])
    *_, middle = read_all(path, counts[1])
    tail, _, state = read_all(path, counts[-1], middle)
    assert state == last
    assert whole[counts[1] :] == tail


@pytest.mark.parametrize("frame", [0, 3])
@pytest.mark.parametrize("place", [8, 12])
def test_a_frame_of_other_salts_is_refused(live, frame, place):
    path, counts = live
    with pytest.raises(Corrupt):
        read_all(spoil(path, 32 + frame * 1048 + place), counts[-1])


@pytest.mark.parametrize("place", [0, 4, 8, 12, 16, 20, 24, 28])
def test_a_flipped_bit_in_the_header_is_refused(live, place):
    path, counts = live
    with pytest.raises(Corrupt):
        read_all(spoil(path, place + 3), counts[-1])


@pytest.mark.parametrize("cut", [1025, 1047, 1048, 5000])
def test_a_torn_tail_is_refused(live, cut):
    path, counts = live
    copy = path.with_name("torn-wal")
    copy.write_bytes(path.read_bytes()[: 32 + counts[-1] * 1048 - cut])
    with pytest.raises(Corrupt):
        read_all(copy, counts[-1])


def test_frames_of_an_older_log_are_refused(live, tmp_path):
    path, counts = live
    head, state = wal.new_log(1024, SALTS)
    frames, _ = wal.encode_frames(state, [1, 2], bytes(2048), 2)
    content = path.read_bytes()
    mixed = tmp_path / "mixed-wal"
    mixed.write_bytes(content[: 32 + counts[0] * 1048] + frames)
    with pytest.raises(Corrupt):
        read_all(mixed, counts[0] + 2)
    assert head


def header(page_size, *, big_endian):
    magic = 0x377F0683 if big_endian else 0x377F0682
    head = struct.pack(">IIII8s", magic, 3007000, page_size, 0, SALTS)
    sums = wal.checksum(head, (0, 0), big_endian=big_endian)
    return head + struct.pack(">II", *sums), wal.WalState(page_size, big_endian, SALTS, 0, sums)


@pytest.mark.parametrize("big_endian", [False, True])
def test_sqlite_takes_our_frames(live, tmp_path, big_endian):
    path, counts = live
    block_pages, commits, state = read_all(path, counts[-1])
    content = path.read_bytes()
    pages = [content[state.page_offset(n) :][:1024] for n in range(counts[-1])]
    head, ours = header(1024, big_endian=big_endian)
    written, start = head, 0
    for end in counts:
        numbers = block_pages[start:end]
        frames, ours = wal.encode_frames(ours, numbers, b"".join(pages[start:end]), commits[end - 1])
        written, start = written + frames, end
    shutil.copy(path.with_name("live.db"), tmp_path / "copy.db")
    (tmp_path / "copy.db-wal").write_bytes(written)
    assert read_all(tmp_path / "copy.db-wal", counts[-1])[2] == ours
    connection = apsw.Connection(str(tmp_path / "copy.db"))
    assert connection.execute("SELECT count(*), sum(length(v)) FROM t").fetchone() == (50, 10_000)
    assert connection.pragma("integrity_check") == "ok"
    connection.close()


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from([512, 1024, 4096]),
    st.data(),
)
def test_the_fast_checksum_is_sqlites(one, two, big_endian, page_size, data):
    pages = data.draw(st.binary(min_size=page_size, max_size=page_size)) + bytes([255]) * page_size
    state = wal.WalState(page_size, big_endian, SALTS, 0, (one, two))
    frames, after = wal.encode_frames(state, [7, 9], pages, 9)
    expected = (one, two)
    for at in (0, state.frame_bytes):
        expected = wal.checksum(frames[at : at + 8], expected, big_endian=big_endian)
        page = frames[at + 24 : at + state.frame_bytes]
        expected = wal.checksum(page, expected, big_endian=big_endian)
        assert struct.unpack(">II", frames[at + 16 : at + 24]) == expected
    assert after.checksum == expected


@given(st.binary(max_size=3000))
def test_hostile_logs_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "hostile-wal"
    path.write_bytes(content)
    with pytest.raises(Corrupt):
        read_all(path, 1)


@given(st.binary(max_size=3000))
def test_hostile_frames_behind_a_sound_header_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "hostile-frames-wal"
    head, state = wal.new_log(512, SALTS)
    path.write_bytes(head + content)
    with pytest.raises(Corrupt):
        read_all(path, 2)
    assert msgspec.structs.replace(state, frames=1).end == 32 + 536
