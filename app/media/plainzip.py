"""A fast parser for zips in memory of the form that clients write: stored members without gaps.

Used by `unzip`. A zip of any other form gives None, and is parsed by `zipfile`; for zips of this form both
give the same result. Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7,
4.3.12 and 4.3.16.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Final, NamedTuple

_END: Final = struct.Struct("<4s4H2IH")
_ENTRY: Final = struct.Struct("<4s6H3I5H2I")
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_LOCATOR_BYTES: Final = 20
_MOST_MEMBERS: Final = 64
_STORED: Final = 0
_VERSIONS: Final = (10, 20)
_NAME: Final = re.compile(rb"[A-Za-z0-9_]{1,100}").fullmatch


class Member(NamedTuple):
    """Position, size and expected CRC-32 of the content of one member."""

    start: int
    size_bytes: int
    crc32: int


class PlainZip:
    """The members of a zip, by name."""

    def __init__(self, zipped: bytes, members: dict[str, Member]) -> None:
        self._zipped = zipped
        self.members = members

    def size_of(self, name: str) -> int:
        """Size of a member's content; 0 if it is missing."""
        return self.members[name].size_bytes if name in self.members else 0

    def read(self, member: Member) -> bytes | None:
        """A member's content; None if its CRC-32 is wrong."""
        content = self._zipped[member.start : member.start + member.size_bytes]
        return content if zlib.crc32(content) == member.crc32 else None


def find_plain_zip(zipped: bytes) -> PlainZip | None:
    """The zip in these bytes, or None if it has another form.

        header | content | header | content | ... | entry | entry | ... | end
        ^ start of member 0                       ^ `at`: the central directory

    Entries and members are read in step: each member must start where the one before it ends, and the last
    one must end where the directory starts. So no two members overlap, and no bytes are left over.
    """
    directory = _find_directory(zipped)
    if directory is None:
        return None
    count, at = directory
    directory_start, end = at, 0
    members: dict[str, Member] = {}
    for _ in range(count):
        found = _read_member(zipped, at, end)
        if found is None or found[0] in members:
            return None
        name, member, at = found
        members[name] = member
        end = member.start + member.size_bytes
    # No gap between the last member and the directory, nor between the last entry and the end.
    is_whole = end == directory_start and at == len(zipped) - _END.size
    return PlainZip(zipped, members) if is_whole else None


def _find_directory(zipped: bytes) -> tuple[int, int] | None:
    """(number of members, offset of the central directory), or None."""
    if len(zipped) < _END.size + _LOCATOR_BYTES:
        return None
    mark, disk, first_disk, here, count, size, offset, comment = _END.unpack_from(
        zipped, len(zipped) - _END.size
    )
    before_end = len(zipped) - _END.size
    if (
        mark != b"PK\5\6"
        or (disk, first_disk, comment) != (0, 0, 0)
        or here != count
        or not 1 <= count <= _MOST_MEMBERS
        or offset + size != before_end
        or zipped[before_end - _LOCATOR_BYTES : before_end - _LOCATOR_BYTES + 4]
        == b"PK\6\7"  # the locator of a zip64 directory
    ):
        return None
    return count, offset


def _read_member(zipped: bytes, at: int, start: int) -> tuple[str, Member, int] | None:
    """(name, member, offset of the next entry) of the entry at `at`; None if its header is not at `start`."""
    if at + _ENTRY.size > len(zipped) or start + _LOCAL.size > len(zipped):
        return None
    entry, local = _ENTRY.unpack_from(zipped, at), _LOCAL.unpack_from(zipped, start)
    mark, _, version, flags, method, _, _, crc32, packed, size, name_bytes, *rest = entry
    extra, comment, disk, _, _, place = rest
    if (
        (mark, local[0]) != (b"PK\1\2", b"PK\3\4")
        or (flags, method, extra, comment, disk) != (0, _STORED, 0, 0, 0)
        or version not in _VERSIONS
        or packed != size
        or place != start
        or local[2:4] != (flags, method)
        or local[6:10] != (crc32, packed, size, name_bytes)
    ):
        return None
    next_at = at + _ENTRY.size + name_bytes
    name = zipped[at + _ENTRY.size : next_at]
    name_end = start + _LOCAL.size + name_bytes
    if _NAME(name) is None or zipped[start + _LOCAL.size : name_end] != name:
        return None
    return name.decode("ascii"), Member(name_end + local[10], size, crc32), next_at
