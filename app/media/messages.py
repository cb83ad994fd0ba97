"""The messages of the media protocol: requests, and the envelope of answers.

No other module has wire names of the media protocol. The types are as strict as the official server's.
Source: rslib/src/sync/media/{begin,changes,upload,download,sanity,protocol}.rs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec

from app.json_reader import reader

Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
UInt32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class BeginRequest(msgspec.Struct, frozen=True):
    """Starts a media sync; the client's version is required, and not used."""

    client_version: Annotated[str, msgspec.Meta(min_length=1)] = msgspec.field(name="v")


class BeginAnswer(msgspec.Struct, frozen=True):
    """The last USN, and the host key, which has replaced the session key of older protocol versions."""

    usn: int
    host_key: str = msgspec.field(name="sk")


class ChangesRequest(msgspec.Struct, frozen=True):
    """Requests the changes after a USN."""

    last_usn: Int32 = msgspec.field(name="lastUsn")


class DownloadRequest(msgspec.Struct, frozen=True):
    """Requests the contents of files, in this order."""

    files: list[str]


class SanityRequest(msgspec.Struct, frozen=True):
    """The number of files that the client has."""

    local_count: UInt32 = msgspec.field(name="local")


UploadEntries = list[tuple[str, str | None]]
"""`_meta` of an uploaded zip: (file name, name of its member in the zip, or None if the file was removed)."""


read_begin: Final[Callable[[bytes], BeginRequest]] = reader(BeginRequest)
read_changes: Final[Callable[[bytes], ChangesRequest]] = reader(ChangesRequest)
read_download: Final[Callable[[bytes], DownloadRequest]] = reader(DownloadRequest)
read_sanity: Final[Callable[[bytes], SanityRequest]] = reader(SanityRequest)
read_upload_entries: Final[Callable[[bytes], UploadEntries]] = reader(UploadEntries, "_meta")


class _Answer(msgspec.Struct, frozen=True):
    data: Any
    err: str = ""


def refusal(text: str) -> bytes:
    """An answer that clients end their media sync by, and show the text of."""
    return msgspec.json.encode(_Answer(None, text))


def answer(content: Any) -> bytes:
    """`{"data": content, "err": ""}`; older clients need `err` in every answer."""
    return msgspec.json.encode(_Answer(content))
