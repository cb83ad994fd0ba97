"""The method `downloadFiles`: sends files in a zip, as many as fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from app.errors import FileMissing, ProtocolError
from app.media.gate import IndexGate
from app.media.messages import read_download
from app.media.storedzip import Member, joined, whole_member, zip_blocks, zip_size_bytes
from storage.media.blobs import LARGE_BYTES, Blobs, key_of
from storage.media.index import FileRow
from storage.types import UserId

MAX_FILES: Final = 25
_TARGET_BYTES: Final = 5 * 1024 * 1024 // 2
"""When the files have more than this in total, no more are added. Source: rslib/src/sync/media/mod.rs."""

_BLOCK_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Download:
    """A zip that is sent to a client. All blobs have been found and verified when it is created."""

    size_bytes: int
    blocks: Iterator[bytes]


def download_files(payload: bytes, user: UserId, gate: IndexGate, blobs: Blobs) -> Download:
    """A zip of the first requested files: members "0", "1", ..., then `_meta` = `{"0": name, ...}`.

    Raises: ProtocolError for more than 25 names; FileMissing for a file that is unknown or removed, or
    whose blob is lost or damaged. The row of a lost file is deleted without a tombstone, so that other
    devices keep the file and can upload it again. A request with names never gets an empty zip, as clients
    would repeat it for ever.
    """
    names = read_download(payload).files
    if len(names) > MAX_FILES:
        raise ProtocolError(f"{len(names)} files asked for, at most {MAX_FILES} are allowed")
    nothing: list[FileRow | None] = [None] * len(names)
    rows = _that_fit(names, gate.read(user, lambda index: index.find_many(names), otherwise=nothing))
    contents = _contents(rows, blobs)
    lost = [row for row, content in zip(rows, contents, strict=True) if content is None]
    if lost:
        # So that an upload of the same file is a change, and is stored.
        gate.change(user, lambda index: index.drop_rows(lost))
        names_lost = ", ".join(f"{row.name!r} ({key_of(row.sha256)})" for row in lost)
        raise FileMissing(f"the content of {names_lost} is lost or damaged; devices send it again")
    members = [
        Member(b"%d" % number, row.crc32, row.size_bytes, content)
        for number, (row, content) in enumerate(zip(rows, contents, strict=True))
        if content is not None
    ]
    meta = msgspec.json.encode({str(number): row.name for number, row in enumerate(rows)})
    members.append(whole_member(b"_meta", meta))
    return Download(zip_size_bytes(members), joined(zip_blocks(members), _BLOCK_BYTES))


def _that_fit(names: Sequence[str], found: Sequence[FileRow | None]) -> list[FileRow]:
    rows: list[FileRow] = []
    total_bytes = 0
    for name, row in zip(names, found, strict=True):
        # The client requests the rest again.
        if total_bytes > _TARGET_BYTES:
            break
        if row is None:
            raise FileMissing(f"{name!r} is not there")
        rows.append(row)
        total_bytes += row.size_bytes
    return rows


def _contents(rows: Sequence[FileRow], blobs: Blobs) -> list[Iterator[bytes] | None]:
    """The content of each row, or None if it is lost or damaged.

    All rows but the last have at most 2.5 MiB in total, and are read at once. The last may have 100 MiB:
    if it is large, it is read once to verify its hash, and then streamed.
    """
    is_last_large = bool(rows) and rows[-1].size_bytes >= LARGE_BYTES
    whole = rows[:-1] if is_last_large else rows
    contents: list[Iterator[bytes] | None] = [
        None if content is None else iter((content,)) for content in blobs.read_many(whole)
    ]
    if is_last_large:
        contents.append(blobs.find_stream(rows[-1]) if blobs.is_sound(rows[-1]) else None)
    return contents
