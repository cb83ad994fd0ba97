"""Blobs are kept once per content, and rewritten before a sweep could take them."""

import hashlib
import zlib

import pytest

from storage.errors import Corrupt
from storage.media.blobs import Blobs, Digester, NewBlob, key_of
from storage.media.index import FileRow
from storage.objects.memory import MemoryObjectStore
from tests.support.clock import Clock


class CountingObjects(MemoryObjectStore):
    def __init__(self, clock):
        super().__init__(clock)
        self.written = []

    def put(self, key, content):
        self.written.append(key)
        super().put(key, content)


@pytest.fixture
def clock():
    return Clock(1_000_000)


@pytest.fixture
def objects(clock):
    return CountingObjects(clock)


@pytest.fixture
def blobs(objects, clock):
    return Blobs(objects, fresh_ms=1000)


def sha256(content):
    return hashlib.sha256(content).digest()


def new(content):
    return NewBlob(sha256(content), content)


def row(content, size=None):
    return FileRow("name", sha256(content), zlib.crc32(content), len(content) if size is None else size)


def test_the_key_follows_from_the_content():
    assert key_of(sha256(b"x")) == "blobs/" + hashlib.sha256(b"x").hexdigest()


def test_the_digester_knows_all_sums_of_the_pieces():
    digester = Digester()
    digester.update(b"ab")
    digester.update(b"c")
    facts = digester.facts()
    assert facts.sha1 == hashlib.sha1(b"abc").digest()
    assert facts.sha256 == sha256(b"abc")
    assert facts.crc32 == zlib.crc32(b"abc")
    assert facts.size_bytes == 3


def test_a_content_is_written_once_however_often_it_comes(blobs, objects):
    assert blobs.put_new([new(b"a"), new(b"b"), new(b"a")]) == 2
    assert blobs.put_new([new(b"b")]) == 0
    assert objects.written == [key_of(sha256(b"a")), key_of(sha256(b"b"))]


def test_an_old_blob_is_written_again(blobs, clock, objects):
    blobs.put_new([new(b"a")])
    clock.now_ms += 1000
    assert blobs.put_new([new(b"a")]) == 1
    assert objects.find(key_of(sha256(b"a"))).modified_ms == clock.now_ms


def test_a_content_in_a_file_is_put_as_a_file(blobs, objects, tmp_path):
    (tmp_path / "big").write_bytes(b"big")
    blobs.put_new([NewBlob(sha256(b"big"), tmp_path / "big")])
    assert objects.read(key_of(sha256(b"big"))) == b"big"


def test_lost_blobs_are_none_among_those_read(blobs):
    blobs.put_new([new(b"a"), new(b"c")])
    assert blobs.read_many([row(b"a"), row(b"b"), row(b"c")]) == [b"a", None, b"c"]


def test_a_lost_blob_has_no_stream(blobs):
    assert blobs.find_stream(row(b"a")) is None


def test_a_large_blob_comes_in_pieces(blobs):
    content = bytes(range(256)) * 4096 * 3
    blobs.put_new([new(content)])
    pieces = list(blobs.find_stream(row(content)))
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= 1 << 20


@pytest.mark.parametrize("size", [2, 4])
def test_a_blob_of_another_size_than_the_index_says_is_corrupt(blobs, size):
    blobs.put_new([new(b"abc")])
    with pytest.raises(Corrupt):
        blobs.read_many([row(b"abc", size)])
    with pytest.raises(Corrupt):
        list(blobs.find_stream(row(b"abc", size)))


def test_an_old_blob_is_renewed_and_then_young(blobs, clock, objects, tmp_path):
    blobs.put_new([new(b"content")])
    clock.now_ms += 5000
    assert blobs.renew(row(b"content"), tmp_path / "copy")
    assert objects.find(key_of(sha256(b"content"))).modified_ms == clock.now_ms
    assert objects.read(key_of(sha256(b"content"))) == b"content"


def test_what_is_lost_cannot_be_renewed(blobs, objects, tmp_path):
    assert not blobs.renew(row(b"content"), tmp_path / "copy")
    assert objects.written == []


@pytest.mark.parametrize("found", [b"another", b"content and more", b"con"])
def test_a_blob_that_is_not_what_its_key_says_is_lost(blobs, clock, objects, tmp_path, found):
    objects.put(key_of(sha256(b"content")), found)
    clock.now_ms += 5000
    assert not blobs.renew(row(b"content"), tmp_path / "copy")
    assert objects.find(key_of(sha256(b"content"))).modified_ms < clock.now_ms
