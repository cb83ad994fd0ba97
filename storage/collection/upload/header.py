"""Reads the header of an uploaded SQLite file (100 bytes) before SQLite opens it. Used by `admit`.

Source: https://www.sqlite.org/fileformat2.html section 1.3.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from storage.errors import InvalidDatabase

_SIZE = 100
_MAGIC = b"SQLite format 3\x00"
_UTF8 = 1
_VERSIONS_AT = 18
_WAL_VERSIONS = b"\x02\x02"
_PAGE_SIZE = 4096


class Header(NamedTuple):
    """The layout of a file by its header."""

    page_size: int
    page_count: int
    is_tidy: bool
    """Whether it has pages of 4096 bytes, none of them free, no bytes after them, and text in UTF-8."""


def read_header(path: Path) -> Header:
    """The header. Raises: InvalidDatabase if this is no SQLite file, or one that is too short."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_SIZE)
    if len(start) < _SIZE or not start.startswith(_MAGIC):
        raise InvalidDatabase("no SQLite file")

    def number(offset: int, size: int = 4) -> int:
        return int.from_bytes(start[offset : offset + size])

    # 65536 does not fit into two bytes, and is stored as 1.
    page_size = 1 << 16 if number(16, 2) == 1 else number(16, 2)
    if page_size < 512 or page_size & (page_size - 1):
        raise InvalidDatabase(f"page size {page_size}")
    # The page count in the header is valid only if these two change counters are equal.
    told = number(24) == number(92) and number(28) > 0
    page_count = number(28) if told else size_bytes // page_size
    if page_count * page_size > size_bytes or page_count == 0:
        raise InvalidDatabase(f"{size_bytes} bytes of {page_count} pages of {page_size} bytes")
    return Header(
        page_size,
        page_count,
        is_tidy=(
            told
            and page_size == _PAGE_SIZE
            and page_count * page_size == size_bytes
            and start[18:20] in {b"\x01\x01", _WAL_VERSIONS}
            and number(20, 1) == 0  # reserved bytes of each page
            and number(36) == 0  # free pages
            and number(52) == 0  # auto-vacuum
            and number(56) == _UTF8
        ),
    )


def mark_as_wal(path: Path) -> None:
    """Set the format versions in the header to those of WAL mode."""
    with path.open("r+b") as file:
        file.seek(_VERSIONS_AT)
        file.write(_WAL_VERSIONS)
