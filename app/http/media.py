"""The blueprint of /msync/<method>: media files."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec
from flask import Blueprint

from app.errors import Closed, ProtocolError, QuotaExceeded
from app.http.front import Front, Step
from app.http.request import SyncRequest
from app.http.response import Answer, Download
from storage.errors import TooLarge
from storage.types import UserId


class MediaService(Protocol):
    """What the blueprint asks of app.media."""

    def call(self, user: UserId, method: str, hkey: str, payload: bytes) -> bytes:
        """Answer a method that has JSON on both sides."""

    def refuse(self, text: str) -> bytes:
        """The answer to `begin` or `uploadChanges` that lets clients show a text, and do nothing else."""

    def upload_changes(self, user: UserId, zipped: bytes | Path, device: str) -> bytes:
        """Take a zip of files: its bytes, or the file that has them."""

    def download_files(self, user: UserId, payload: bytes) -> Download:
        """Give a zip of files."""


def media_blueprint(front: Front, service: MediaService) -> Blueprint:
    """The routes of /msync."""
    blueprint = Blueprint("media", __name__)

    def begin(request: SyncRequest) -> Answer:
        """Legacy clients send their version beside the payload, and the payload does not count."""
        if request.media_version is not None:
            user = front.admit(request)
            payload = msgspec.json.encode({"v": request.media_version})
            return front.answers.message(request, service.call(user, "begin", request.hkey, payload))
        return message(request)

    def message(request: SyncRequest) -> Answer:
        user = front.admit(request)
        with front.payload(request) as payload:
            answer = service.call(user, request.method, request.hkey, payload)
        return front.answers.message(request, answer)

    def upload_changes(request: SyncRequest) -> Answer:
        user = front.admit(request)
        try:
            with front.held(request) as zipped, front.pools.transfer(user):
                answer = service.upload_changes(user, zipped, request.device)
        except TooLarge as exc:
            raise ProtocolError("the zip is too large") from exc
        except QuotaExceeded as exc:
            request.entry.reason = f"over quota: {exc}"
            answer = service.refuse(str(exc))
        return front.answers.message(request, answer)

    def download_files(request: SyncRequest) -> Answer:
        user = front.admit(request)
        with front.payload(request) as payload, front.pools.transfer(user):
            return front.answers.file(request, service.download_files(user, payload))

    def closed(request: SyncRequest, text: str) -> Answer:
        """Every sync begins with `begin`, and clients show its text; they show none of a 503."""
        if request.method == "begin":
            return front.answers.message(request, service.refuse(text))
        raise Closed(text)

    steps: dict[str, Step] = {
        "begin": begin,
        "mediaChanges": message,
        "uploadChanges": upload_changes,
        "downloadFiles": download_files,
        "mediaSanity": message,
    }
    front.add_routes(blueprint, "msync", steps, closed)
    by_query = front.view("begin", begin, closed)
    blueprint.add_url_rule("/msync/begin", "begin_by_query", by_query, methods=["GET"])
    return blueprint
