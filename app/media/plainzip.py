"""Zips in memory of the form in which clients write them: stored members, one behind the other, no frills.

Refuses to judge: anything else is `zipfile`'s to read or to refuse, and never comes out differently here.
Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16.
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
    """Where the content of one member is, and the CRC-32 it should have."""

    start: int
    size_bytes: int
    crc32: int


class PlainZip:
    """The members by name."""

    def __init__(self, zipped: bytes, members: dict[str, Member]) -> None:
        self._zipped = zipped
        self.members = members

    def size_of(self, name: str) -> int:
        """Bytes of a member's content, 0 where there is none."""
        return self.members[name].size_bytes if name in self.members else 0

    def read(self, member: Member) -> bytes | None:
        """A member's content, None if its CRC-32 is another."""
        content = self._zipped[member.start : member.start + member.size_bytes]
        return content if zlib.crc32(content) == member.crc32 else None


def find_plain_zip(zipped: bytes) -> PlainZip | None:
    """The zip in these bytes, if it is of plain form."""
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
    is_whole = end == directory_start and at == len(zipped) - _END.size
    return PlainZip(zipped, members) if is_whole else None


def _find_directory(zipped: bytes) -> tuple[int, int] | None:
    """How many members there are, and where the central directory begins."""
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
        == b"PK\6\7"  # of the large form
    ):
        return None
    return count, offset


def _read_member(zipped: bytes, at: int, start: int) -> tuple[str, Member, int] | None:
    """The member whose entry is at `at` and whose header must be at `start`; where the next entry is."""
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
