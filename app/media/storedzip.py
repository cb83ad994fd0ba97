"""Writes the zip of `downloadFiles` as a stream: stored members, whose sizes and CRC-32 are known beforehand.

Sizes and CRC-32 are in the local headers (no data descriptors), which clients of all versions can read, so
the size of the zip is known before its first byte. There is no zip64: a batch is far below its limits.
Source: APPNOTE.TXT 6.3 of PKWARE, sections 4.3.7, 4.3.12, 4.3.16.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_VERSION: Final = 20
_MADE_BY: Final = 3 << 8 | _VERSION
_DOS_DATE: Final = 0x21
"""1980-01-01, as the times of files are not sent."""

_REGULAR_FILE: Final = 0o100644 << 16


class Member(NamedTuple):
    """One member: its name in the zip (ASCII), and its content."""

    name: bytes
    crc32: int
    size_bytes: int
    blocks: Iterator[bytes]


def whole_member(name: bytes, content: bytes) -> Member:
    """A member whose content is in memory."""
    return Member(name, zlib.crc32(content), len(content), iter((content,)))


def zip_size_bytes(members: list[Member]) -> int:
    """The size of the zip of these members."""
    per_member = sum(_LOCAL.size + _CENTRAL.size + 2 * len(member.name) for member in members)
    return per_member + sum(member.size_bytes for member in members) + _END.size


def zip_blocks(members: list[Member]) -> Iterator[bytes]:
    """The zip of these members."""
    directory = []
    offset = 0
    for member in members:
        header = _header(member)
        yield _LOCAL.pack(b"PK\3\4", *header) + member.name
        yield from member.blocks
        directory.append(
            _CENTRAL.pack(b"PK\1\2", _MADE_BY, *header, 0, 0, 0, _REGULAR_FILE, offset) + member.name
        )
        # The position of the next member, computed without its content.
        offset += _LOCAL.size + len(member.name) + member.size_bytes
    central = b"".join(directory)
    count = len(members)
    yield central + _END.pack(b"PK\5\6", 0, 0, count, count, len(central), offset, 0)


def _header(member: Member) -> tuple[int, ...]:
    """The fields that local header and directory entry have in common."""
    flags = method = time = extra_bytes = 0
    size_bytes = member.size_bytes
    name_bytes = len(member.name)
    return (
        _VERSION,
        flags,
        method,
        time,
        _DOS_DATE,
        member.crc32,
        size_bytes,
        size_bytes,
        name_bytes,
        extra_bytes,
    )


def joined(blocks: Iterator[bytes], at_least_bytes: int) -> Iterator[bytes]:
    """The same bytes in fewer blocks; all but the last have at least `at_least_bytes`."""
    pending: list[bytes] = []
    size_bytes = 0
    for block in blocks:
        pending.append(block)
        size_bytes += len(block)
        if size_bytes >= at_least_bytes:
            yield b"".join(pending)
            pending.clear()
            size_bytes = 0
    if pending:
        yield b"".join(pending)
