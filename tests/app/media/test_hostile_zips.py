"""Whatever a stranger puts into a zip is refused, or taken as it is; nobody's data is harmed."""

import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import ProtocolError
from app.media.unzip import Batch, unpack

MIB = 1 << 20


@pytest.fixture
def refuse(worker, make_zip):
    """Uploads a zip that must be refused, in memory or not, and checks that nothing of it was applied."""
    worker.upload("user", make_zip(("kept", b"kept")))

    def refuse(zipped, match=None):
        before = worker.call("user", "mediaChanges", {"lastUsn": 0})
        for as_file in (False, True):
            with pytest.raises(ProtocolError, match=match):
                worker.upload("user", zipped, as_file=as_file)
        assert worker.call("user", "mediaChanges", {"lastUsn": 0}) == before
        assert not list(worker.scratch.iterdir())

    return refuse


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b", "a/b", "../a", "e\u0301", "é" * 128])
def test_a_name_that_no_folder_can_hold_refuses_the_whole_batch(refuse, make_zip, name):
    refuse(make_zip(("good", b"1"), (name, b"2")), "file name")


def test_an_empty_file_refuses_the_whole_batch(refuse, make_zip):
    refuse(make_zip(("good", b"1"), ("empty", b"")), "zero bytes")


def test_a_file_of_100_mib_is_taken_and_a_larger_one_is_not(worker, make_zip):
    content = bytes(100 * MIB)
    assert worker.upload("user", make_zip(("a", content), method=zipfile.ZIP_DEFLATED)) == [1, 1]
    with pytest.raises(ProtocolError, match="too large"):
        worker.upload("user", make_zip(("b", content + b"1"), method=zipfile.ZIP_DEFLATED))
    assert not list(worker.scratch.iterdir())


def test_a_bomb_of_several_files_is_refused_before_it_fills_the_disk(make_worker, make_zip):
    worker = make_worker(limit_bytes=4 * MIB)
    zipped = make_zip(*((f"{n}", bytes(2 * MIB)) for n in range(3)), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(ProtocolError, match="more than the limit"):
        worker.upload("user", zipped)
    assert not list(worker.scratch.iterdir())


def test_one_member_under_many_names_is_unpacked_once(make_worker, make_zip):
    worker = make_worker(limit_bytes=3 * MIB)
    meta = "[" + ",".join(f'["{n}","0"]' for n in range(25)) + "]"
    assert worker.upload("user", make_zip(("", bytes(2 * MIB)), meta=meta)) == [25, 25]


def test_a_member_that_unpacks_to_more_than_it_says_is_refused(refuse, make_zip):
    zipped = make_zip(("a", b"x" * 5000), method=zipfile.ZIP_DEFLATED)
    refuse(zipped.replace(struct.pack("<L", 5000), struct.pack("<L", 50)))


def test_a_member_that_unpacks_to_less_than_it_says_is_refused(refuse, make_zip):
    zipped = make_zip(("a", b"x" * 5000))
    refuse(zipped.replace(struct.pack("<L", 5000), struct.pack("<L", 5000_000)))


def test_a_wrong_checksum_refuses_the_whole_batch(refuse, make_zip):
    refuse(make_zip(("good", b"1"), ("bad", b"content")).replace(b"content", b"CONTENT"))


def test_an_encrypted_member_is_refused(refuse, make_zip):
    zipped = bytearray(make_zip(("a", b"content")))
    zipped[6] |= 1
    zipped[zipped.index(b"PK\1\2") + 8] |= 1
    refuse(bytes(zipped), "encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_packed_in_another_way_is_refused(refuse, make_zip, method):
    refuse(make_zip(("a", b"content"), method=method), "unknown way")


def test_members_that_share_their_bytes_are_refused(refuse):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("0", b"x" * 1000)
        archive.writestr("1", b"x" * 1000)
        archive.writestr("_meta", '[["a","0"],["b","1"]]')
        archive.infolist()[1].header_offset = 0
        archive.infolist()[1].filename = archive.infolist()[1].orig_filename = "0"
    refuse(out.getvalue(), "overlap")


def test_a_member_that_reaches_into_the_directory_is_refused(refuse, make_zip):
    zipped = make_zip(("a", b"x" * 5000))
    refuse(zipped.replace(struct.pack("<L", 5000), struct.pack("<L", 5500)), "overlap")


def test_a_directory_of_very_many_members_is_not_read(refuse, make_zip):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}", b"")
        archive.writestr("_meta", "[]")
    refuse(out.getvalue(), "directory is too large")


def test_a_list_of_files_beyond_50_kib_is_cut_and_so_refused(refuse, make_zip):
    meta = '[["a",null],["' + "b" * 60_000 + '",null]]'
    refuse(make_zip(meta=meta, method=zipfile.ZIP_DEFLATED), "_meta: ")


@pytest.mark.parametrize("depth", [100_000])
def test_a_deeply_nested_list_is_refused(refuse, make_zip, depth):
    refuse(make_zip(meta="[" * depth, method=zipfile.ZIP_DEFLATED), "_meta: ")


def test_a_zip64_archive_is_taken(worker):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        with archive.open("0", "w", force_zip64=True) as member:
            member.write(b"content")
        archive.writestr("_meta", '[["a","0"]]')
    assert worker.upload("user", out.getvalue()) == [1, 1]


def test_a_zip_written_to_a_pipe_is_taken(worker):
    """Sizes and sums come after the contents, as Java's zip writer (AnkiDroid of old) puts them."""

    class Pipe(io.RawIOBase):
        content = b""

        def writable(self):
            return True

        def write(self, block):
            self.content += bytes(block)
            return len(block)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0", b"content")
        archive.writestr("_meta", '[["a","0"],["gone",""]]')
    assert worker.upload("user", pipe.content) == [2, 1]


def test_large_and_many_files_do_not_stay_in_memory(tmp_path, make_zip):
    zipped = make_zip(("large", bytes(MIB)), *((f"{n}", bytes([n]) * 1_000_000) for n in range(24)))
    (tmp_path / "zip").write_bytes(zipped)
    batch = Batch(tmp_path)
    unpack(tmp_path / "zip", batch, 300 * MIB)
    in_memory = [blob.content for blob in batch.blobs if isinstance(blob.content, bytes)]
    assert sum(map(len, in_memory)) == 8_000_000
    assert len(batch.blobs) == 25
    for _, facts in batch.changes:
        blob = next(blob for blob in batch.blobs if blob.sha256 == facts.sha256)
        content = blob.content if isinstance(blob.content, bytes) else blob.content.read_bytes()
        assert (facts.crc32, facts.size_bytes) == (zlib.crc32(content), len(content))
    batch.close()
    assert [path.name for path in tmp_path.iterdir()] == ["zip"]


GOOD = (("a", b"content" * 20), ("b", b"other"), ("c", None))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_to_a_zip_makes_anything_but_a_refusal(tmp_path, make_zip, data):
    zipped = bytearray(make_zip(*GOOD, method=data.draw(st.sampled_from([0, 8]))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(zipped) - 1))
        match data.draw(st.integers(0, 3)):
            case 0:
                zipped[at] = data.draw(st.integers(0, 255))
            case 1:
                zipped[at : at + 4] = data.draw(st.sampled_from([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"]))
            case 2:
                del zipped[at : at + data.draw(st.integers(1, 40))]
            case 3:
                zipped[at:at] = data.draw(st.binary(max_size=40))
        if not zipped:
            break
    (tmp_path / "zip").write_bytes(zipped)
    in_memory, in_file = (changes_of(form, tmp_path) for form in (bytes(zipped), tmp_path / "zip"))
    assert in_memory == in_file
    assert all(facts is None or facts.size_bytes > 0 for _, facts in in_file or ())


def changes_of(zipped, folder):
    """What is in a zip; None if it is refused."""
    batch = Batch(folder)
    try:
        unpack(zipped, batch, MIB)
    except ProtocolError:
        return None
    finally:
        batch.close()
    return batch.changes
