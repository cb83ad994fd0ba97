"""The methods of /sync: login, and everything about the collection."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from app.errors import NO_REFUSAL, Refusal, refusal
from app.http.limits import CHANGES, IDS, LOGIN, ROWS, SMALL
from app.http.pipeline import Access, Method, Pipeline
from app.http.request import SyncRequest
from app.http.response import Download
from app.json_reader import reader
from app.sync.admission import Admission
from app.sync.transfer import OK, TOO_LARGE
from storage.errors import TooLarge
from storage.types import UserId


class CollectionService(Protocol):
    """What is asked of app.sync."""

    def call(self, admission: Admission, method: str, skey: str, version: int, payload: bytes) -> bytes:
        """Answer a method that has JSON on both sides; proves the admission."""

    def refuse(self, text: str) -> bytes:
        """The answer to `meta` that lets clients show a text, and do nothing else."""

    def upload(self, user: UserId, path: Path, device: str) -> str:
        """Take a whole collection; returns OK or the text that clients show."""

    def download(self, user: UserId, version: int, payload: bytes, device: str) -> Download:
        """Give the whole collection."""


class LoginMessage(msgspec.Struct, frozen=True):
    """The payload of hostKey; names as on the wire."""

    u: str
    p: str

    def __repr__(self) -> str:
        """Without the password."""
        return f"LoginMessage(u={self.u!r})"


_read_login = reader(LoginMessage, "hostKey")


class LoginAnswer(msgspec.Struct, frozen=True):
    """What hostKey answers."""

    key: str

    def __repr__(self) -> str:
        """Without the host key."""
        return "LoginAnswer()"


def collection_methods(pipeline: Pipeline, service: CollectionService) -> list[Method]:
    """The table of /sync."""
    pools, files = pipeline.pools, pipeline.files

    def login(request: SyncRequest, _nobody: Admission, message: bytes) -> bytes:
        """A password for a host key."""
        wanted = _read_login(message)
        key = pipeline.authenticator.login(wanted.u, wanted.p, request.address, request.client)
        return msgspec.json.encode(LoginAnswer(key))

    def call(request: SyncRequest, caller: Admission, message: bytes) -> bytes:
        refusal.set(NO_REFUSAL)
        answer = service.call(caller, request.method, request.skey, request.version, message)
        if why := refusal.get().text:
            request.entry.reason = why if request.method == "meta" else f"sanity check failed: {why}"
            request.entry.error = refusal.get().error
        return answer

    def upload(request: SyncRequest, caller: Admission, _message: bytes) -> bytes:
        refusal.set(NO_REFUSAL)
        try:
            with (
                files.only_upload(caller.user),
                files.spooled(request) as path,
                pools.admission(caller.user),
            ):
                text = service.upload(caller.user, path, request.device)
        except TooLarge:  # legacy clients show a text, and no status
            text = TOO_LARGE
        if text != OK:
            found = refusal.get() if refusal.get() != NO_REFUSAL else Refusal("TooLarge", text)
            request.entry.reason = f"upload refused: {found.text}"
            request.entry.error = found.error
        return text.encode()

    def download(request: SyncRequest, caller: Admission, message: bytes) -> Download:
        with pools.transfer(caller.user):
            return service.download(caller.user, request.version, message, request.device)

    return [
        Method("sync", "hostKey", Access.ANYONE, LOGIN, login),
        # Every sync begins with `meta`, and clients show the text of its answer; they show none of a 503.
        Method("sync", "meta", Access.CLAIMED, SMALL, call, refuse=service.refuse),
        Method("sync", "start", Access.CLAIMED, IDS, call),
        Method("sync", "applyGraves", Access.CLAIMED, IDS, call),
        Method("sync", "applyChanges", Access.CLAIMED, CHANGES, call),
        Method("sync", "chunk", Access.CLAIMED, SMALL, call),
        Method("sync", "applyChunk", Access.CLAIMED, ROWS, call),
        Method("sync", "sanityCheck2", Access.CLAIMED, SMALL, call),
        Method("sync", "finish", Access.CLAIMED, SMALL, call),
        Method("sync", "abort", Access.CLAIMED, SMALL, call),
        Method("sync", "upload", Access.PROVEN, None, upload),
        Method("sync", "download", Access.PROVEN, SMALL, download),
    ]
