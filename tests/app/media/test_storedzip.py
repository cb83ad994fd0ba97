"""The zip of a download has the size that was promised, and any reader takes it."""

import io
import struct
import zipfile

from hypothesis import given
from hypothesis import strategies as st

from app.media.storedzip import joined, whole_member, zip_blocks, zip_size_bytes


@given(contents=st.lists(st.binary(max_size=300), max_size=26))
def test_the_size_is_known_and_the_contents_come_back(contents):
    members = [whole_member(b"%d" % number, content) for number, content in enumerate(contents)]
    zipped = b"".join(zip_blocks(members))
    assert len(zipped) == zip_size_bytes(members)
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        assert archive.testzip() is None
        assert [archive.read(name) for name in archive.namelist()] == contents
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())


def test_sizes_and_sums_stand_before_the_contents():
    """Readers that do not look at the directory first need no data descriptor."""
    zipped = b"".join(zip_blocks([whole_member(b"0", b"content")]))
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        info = archive.getinfo("0")
    flags, crc32, packed_bytes, size_bytes = struct.unpack_from("<6xH6xLLL", zipped)
    assert (flags, crc32, packed_bytes, size_bytes) == (0, info.CRC, 7, 7)


@given(blocks=st.lists(st.binary(max_size=9)))
def test_joined_blocks_are_the_same_bytes_in_fewer_blocks(blocks):
    together = list(joined(iter(blocks), 10))
    assert b"".join(together) == b"".join(blocks)
    assert all(len(block) >= 10 for block in together[:-1])
