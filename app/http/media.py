"""The methods of /msync: media files."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from app.errors import ProtocolError, QuotaExceeded
from app.http.limits import NAMES, SMALL
from app.http.pipeline import Access, Method, Pipeline
from app.http.request import SyncRequest
from app.http.response import Download
from app.sync.admission import Admission
from storage.errors import TooLarge
from storage.types import UserId


class MediaService(Protocol):
    """What is asked of app.media."""

    def call(self, user: UserId, method: str, hkey: str, payload: bytes) -> bytes:
        """Answer a method that has JSON on both sides."""

    def refuse(self, text: str) -> bytes:
        """The answer to `begin` or `uploadChanges` that lets clients show a text, and do nothing else."""

    def upload_changes(self, user: UserId, zipped: bytes | Path, device: str) -> bytes:
        """Take a zip of files: its bytes, or the file that has them."""

    def download_files(self, user: UserId, payload: bytes) -> Download:
        """Give a zip of files."""


def media_methods(pipeline: Pipeline, service: MediaService) -> list[Method]:
    """The table of /msync."""
    pools, files = pipeline.pools, pipeline.files

    def begin(request: SyncRequest, caller: Admission, message: bytes) -> bytes:
        """Legacy clients send their version beside the payload, and the payload does not count."""
        if request.media_version is not None:
            message = msgspec.json.encode({"v": request.media_version})
        return service.call(caller.user, "begin", request.hkey, message)

    def call(request: SyncRequest, caller: Admission, message: bytes) -> bytes:
        return service.call(caller.user, request.method, request.hkey, message)

    def upload_changes(request: SyncRequest, caller: Admission, _message: bytes) -> bytes:
        try:
            with files.held(request) as zipped, pools.transfer(caller.user):
                return service.upload_changes(caller.user, zipped, request.device)
        except TooLarge as exc:
            raise ProtocolError("the zip is too large") from exc
        except QuotaExceeded as exc:
            request.entry.reason = f"over quota: {exc}"
            request.entry.error = type(exc).__name__
            return service.refuse(str(exc))

    def download_files(_request: SyncRequest, caller: Admission, message: bytes) -> Download:
        with pools.transfer(caller.user):
            return service.download_files(caller.user, message)

    return [
        # Every sync begins with `begin`, and clients show the text of its answer; they show none of a 503.
        Method("msync", "begin", Access.PROVEN, SMALL, begin, ("GET", "HEAD", "POST"), refuse=service.refuse),
        Method("msync", "mediaChanges", Access.PROVEN, SMALL, call),
        Method("msync", "uploadChanges", Access.PROVEN, None, upload_changes),
        Method("msync", "downloadFiles", Access.PROVEN, NAMES, download_files),
        Method("msync", "mediaSanity", Access.PROVEN, SMALL, call),
    ]
