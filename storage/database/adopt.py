"""Checks the header of a database file that becomes a new version as a whole: an upload, or an empty file.

Used by `storage.database.commit`. The file must be in WAL mode with an empty log.
"""

from __future__ import annotations

from pathlib import Path

from storage.database.local.cache import read_page_size
from storage.database.local.checkout import log_path
from storage.database.local.image import Layout
from storage.errors import InvalidDatabase


def read_file_layout(path: Path) -> Layout:
    """The layout of a file, with checksum 0 as it is not known yet. Raises: InvalidDatabase."""
    with path.open("rb") as file:
        head = file.read(100)
    page_size, size = read_page_size(head), path.stat().st_size
    if page_size == 0:
        raise InvalidDatabase("no SQLite file in WAL mode")
    log = log_path(path)
    if log.exists() and log.stat().st_size:
        raise InvalidDatabase("the file has a log beside it")
    count = int.from_bytes(head[28:32], "big")
    if size % page_size or count != size // page_size or head[24:28] != head[92:96]:
        raise InvalidDatabase(f"{size} bytes, but the header tells {count} pages of {page_size}")
    return Layout(page_size, count, 0, count, {}, None)
