"""Zips of plain form are read as `zipfile` reads them, and all others are left to it."""

import io
import random
import zipfile
import zlib

import pytest

from app.media.plainzip import find_plain_zip

MEMBERS = {"0": b"content" * 500, "1": b"x", "_meta": b'[["a","0"],["b","1"]]'}


def make(members=None, **options):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", **options) as archive:
        for name, content in (members or MEMBERS).items():
            archive.writestr(name, content)
    return packed.getvalue()


def read_all(zipped):
    plain = find_plain_zip(zipped)
    return None if plain is None else {name: plain.read(member) for name, member in plain.members.items()}


def read_by_zipfile(zipped):
    found = {}
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        for info in archive.infolist():
            try:
                found[info.filename] = archive.read(info)
            except zipfile.BadZipFile as exc:
                if "CRC" not in str(exc):
                    raise
                found[info.filename] = None
    return found


def test_a_zip_as_clients_write_it_is_plain():
    assert read_all(make()) == MEMBERS


def test_a_content_with_another_checksum_is_not_given_out():
    assert read_all(make().replace(b"xPK", b"yPK")) == {**MEMBERS, "1": None}


@pytest.mark.parametrize(
    "zipped",
    [
        b"",
        make(compression=zipfile.ZIP_DEFLATED),
        b"junk" + make(),
        make() + b"junk",
        make({"a b": b"1"}),
        make({"a/b": b"1"}),
        make({"\u00e9": b"1"}),
        make({str(number): b"1" for number in range(65)}),
    ],
)
def test_zips_of_other_forms_are_not_plain(zipped):
    assert find_plain_zip(zipped) is None


def test_a_zip_with_a_comment_an_extra_field_or_two_members_of_a_name_is_not_plain():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("0", b"1")
        archive.comment = b"comment"
    assert find_plain_zip(packed.getvalue()) is None
    info = zipfile.ZipInfo("0")
    info.extra = b"\x01\x02\x00\x00"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(info, b"1")
    assert find_plain_zip(packed.getvalue()) is None
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("0", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("0", b"2")
    assert find_plain_zip(packed.getvalue()) is None


def test_members_that_are_written_as_a_stream_are_not_plain():
    class Stream(io.RawIOBase):
        """Cannot go back to fill in a header, so that the sizes come behind the content."""

        def __init__(self):
            self.written = b""

        def writable(self):
            return True

        def write(self, piece):
            self.written += bytes(piece)
            return len(piece)

    stream = Stream()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("0", b"1")
    assert find_plain_zip(stream.written) is None


@pytest.mark.parametrize("seed", range(300))
def test_damaged_zips_are_read_alike_or_left_to_zipfile(seed):
    chance = random.Random(seed)
    zipped = bytearray(make({"0": b"abc", "1": b"de", "_meta": b"[]"}))
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(zipped))
        match chance.randrange(3):
            case 0:
                zipped[at] = chance.choice([0, 1, 2, 3, 0x50, 0x80, 0xFF, chance.randrange(256)])
            case 1:
                del zipped[at : at + chance.randrange(1, 30)]
            case 2:
                zipped[at:at] = chance.randbytes(chance.randrange(1, 30))
    found = read_all(bytes(zipped))
    assert found is None or found == read_by_zipfile(bytes(zipped))


def test_the_checksum_is_that_of_the_content():
    plain = find_plain_zip(make())
    assert plain.members["0"].crc32 == zlib.crc32(MEMBERS["0"])
    assert plain.size_of("0") == len(MEMBERS["0"])
    assert plain.size_of("2") == 0
