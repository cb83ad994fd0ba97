"""Stored pages: what is written is read back, whatever the pieces; anything else is refused."""

from __future__ import annotations

import hashlib
import struct

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st

from storage.database.commit import header_of, with_digests
from storage.database.format.pages import (
    PageParser,
    PageWriter,
    lock_page,
    page_packer,
    pages_checksum,
    pages_per_block,
)
from storage.errors import Corrupt
from storage.types import ChainEntry, EntryKind


def blank(kind=EntryKind.DELTA, *, page_size=512, page_count=100, first=4, last=5) -> ChainEntry:
    return ChainEntry(kind, first, last, 3, "n", 0, b"", page_size, page_count, 77, ("id one", "id-2"), 1234)


def encode(entry, pages):
    """The object of `{number: page}` and its proven entry."""
    out = []
    writer = PageWriter(header_of(entry, 55), out.append, page_packer(3))
    numbers, step = sorted(pages), pages_per_block(entry.page_size)
    for at in range(0, len(numbers), step):
        part = numbers[at : at + step]
        writer.add(part, b"".join(pages[n] for n in part))
    digest = writer.finish(77)
    content = b"".join(out)
    assert len(content) == writer.size_bytes
    return content, with_digests(entry, len(content), digest, 77)


def decode(content, entry, piece_bytes=1 << 20):
    parser, pages = PageParser("key", entry), {}
    for at in range(0, len(content), piece_bytes):
        for numbers, block in parser.feed(content[at : at + piece_bytes]):
            view = memoryview(block)
            size = entry.page_size
            pages.update((n, bytes(view[i * size : (i + 1) * size])) for i, n in enumerate(numbers))
    parser.finish()
    return parser.header, pages


SOME = {n: bytes([n]) * 512 for n in (1, 2, 40, 99, 100)}


@given(
    st.dictionaries(st.integers(1, 3000), st.binary(min_size=1, max_size=9), max_size=2500),
    st.integers(100, 5000),
)
def test_what_is_written_is_read_back_from_any_pieces(seeds, piece_bytes):
    pages = {n: (seed * 512)[:512] for n, seed in seeds.items()}
    content, entry = encode(blank(page_count=3000), pages)
    header, found = decode(content, entry, piece_bytes)
    assert found == pages
    assert (header.parent, header.commit_ids, header.time_ms) == (55, ("id one", "id-2"), 1234)


def test_a_delta_may_be_empty():
    content, entry = encode(blank(), {})
    assert decode(content, entry)[1] == {}


def test_every_flipped_bit_is_noticed():
    content, entry = encode(blank(), SOME)
    for at in range(len(content)):
        spoilt = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        with pytest.raises(Corrupt):
            decode(spoilt, entry)


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c + b"x", lambda c: b"", lambda c: c[:70]])
def test_a_cut_or_prolonged_object_is_refused(change):
    content, entry = encode(blank(), SOME)
    with pytest.raises(Corrupt):
        decode(change(content), entry)


@pytest.mark.parametrize(
    "other",
    [
        {"page_size": 1024},
        {"page_count": 101},
        {"first": 3},
        {"last": 6},
        {"checksum": 78},
        {"token": 4},
        {"kind": EntryKind.SNAPSHOT},
        {"sha256": b"0" * 32},
    ],
)
def test_an_object_of_another_entry_is_refused(other):
    content, entry = encode(blank(), SOME)
    with pytest.raises(Corrupt):
        decode(content, msgspec.structs.replace(entry, **other))


def test_a_snapshot_must_have_every_page():
    entry = blank(EntryKind.SNAPSHOT, page_count=3, first=5)
    pages = {n: bytes(512) for n in (1, 2, 3)}
    assert decode(*encode(entry, pages))[1] == pages
    del pages[2]
    with pytest.raises(Corrupt):
        decode(*encode(entry, pages))


def forge(numbers, raw=None, *, count=None, page_count=100):
    """An object with one block of our making and all sums right, as a writer gone wrong would leave it."""
    out = []
    writer = PageWriter(header_of(blank(page_count=page_count), 0), out.append, page_packer(3))
    raw = np.array(numbers, "<u4").tobytes() + bytes(512 * len(numbers)) if raw is None else raw
    count = len(numbers) if count is None else count
    frame = zstandard.ZstdCompressor().compress(raw)
    start = writer.size_bytes
    writer._write(struct.pack("<II", count, len(frame)) + frame)
    writer._index.append(struct.pack("<QII", start, count, numbers[0]))
    digest = writer.finish(77)
    content = b"".join(out)
    assert hashlib.sha256(content[:-32]).digest() == digest
    return content, with_digests(blank(page_count=page_count), len(content), digest, 77)


LOCK = lock_page(512)


@pytest.mark.parametrize(
    "forged",
    [
        lambda: forge([0]),
        lambda: forge([101]),
        lambda: forge([2**32 - 1]),
        lambda: forge([5, 5]),
        lambda: forge([6, 5]),
        lambda: forge([LOCK - 1, LOCK], page_count=LOCK + 5),
        lambda: forge([1], bytes(10)),
        lambda: forge([1], bytes(200 << 20)),
        lambda: forge([1], count=2**31),
        lambda: forge([1], count=2),
    ],
)
def test_pages_out_of_order_or_range_are_refused(forged):
    content, entry = forged()
    with pytest.raises(Corrupt):
        decode(content, entry)


@given(st.data())
def test_hostile_bytes_are_refused(data):
    content, entry = encode(blank(), SOME)
    at = data.draw(st.integers(0, len(content)))
    hostile = (
        content[:at] + data.draw(st.binary(max_size=200)) + content[at + data.draw(st.integers(0, 200)) :]
    )
    assume(hostile != content)
    entry = msgspec.structs.replace(
        entry, size_bytes=len(hostile), sha256=hashlib.sha256(hostile[:-32]).digest()
    )
    with pytest.raises(Corrupt):
        decode(hostile, entry)


def test_the_checksum_tells_pages_that_changed_places():
    one, two = bytes(512), b"1" * 512
    assert pages_checksum([1, 2], one + two, 512) != pages_checksum([1, 2], two + one, 512)
    assert pages_checksum([], b"", 512) == 0
