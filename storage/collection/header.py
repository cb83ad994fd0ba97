"""The first hundred bytes of an SQLite file, read before SQLite gets to see it.

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
    """What the header tells of the layout of a file."""

    page_size: int
    page_count: int
    is_tidy: bool
    """Pages of 4096 bytes, none of them free, all of the file's bytes in them, text in UTF-8."""


def read_header(path: Path) -> Header:
    """Raises InvalidDatabase for what cannot be an SQLite file, or is shorter than it says."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_SIZE)
    if len(start) < _SIZE or not start.startswith(_MAGIC):
        raise InvalidDatabase("no SQLite file")

    def number(offset: int, size: int = 4) -> int:
        return int.from_bytes(start[offset : offset + size])

    page_size = 1 << 16 if number(16, 2) == 1 else number(16, 2)
    if page_size < 512 or page_size & (page_size - 1):
        raise InvalidDatabase(f"page size {page_size}")
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
    """Set the file's format versions to those of a database in WAL mode."""
    with path.open("r+b") as file:
        file.seek(_VERSIONS_AT)
        file.write(_WAL_VERSIONS)
