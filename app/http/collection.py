"""The blueprint of /sync/<method>: login, and everything about the collection."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec
from flask import Blueprint

from app.auth.hostkeys import key_id
from app.errors import refusal_reason
from app.http.front import Front, Step
from app.http.request import SyncRequest
from app.http.response import Answer, Download
from app.json_reader import reader
from app.sync.admission import Admission
from app.sync.session import ORIGIN_LENGTH
from app.sync.transfer import OK, TOO_LARGE
from storage.errors import TooLarge
from storage.types import UserId

_MESSAGES = (
    "meta",
    "start",
    "applyGraves",
    "applyChanges",
    "chunk",
    "applyChunk",
    "sanityCheck2",
    "finish",
    "abort",
)


class CollectionService(Protocol):
    """What the blueprint asks of app.sync."""

    def call(self, admission: Admission, method: str, skey: str, version: int, payload: bytes) -> bytes:
        """Answer a method that has JSON on both sides; proves the admission."""

    def upload(self, user: UserId, path: Path, origin: str) -> str:
        """Take a whole collection; returns OK or the text that clients show."""

    def download(self, user: UserId, version: int, payload: bytes) -> Download:
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


def collection_blueprint(front: Front, service: CollectionService) -> Blueprint:
    """The routes of /sync."""
    blueprint = Blueprint("collection", __name__)

    def host_key(request: SyncRequest) -> Answer:
        """A password for a host key: the one method that needs none."""
        message = _read_login(front.login_payload(request))
        key = front.authenticator.login(message.u, message.p, request.address, request.client)
        return front.answers.message(request, msgspec.json.encode(LoginAnswer(key)))

    def message(request: SyncRequest) -> Answer:
        admission = front.claim(request)
        try:
            with front.payload(request) as payload:
                answer = service.call(admission, request.method, request.skey, request.version, payload)
        finally:
            if admission.is_proven:
                request.entry.user = admission.user
        return front.answers.message(request, answer)

    def upload(request: SyncRequest) -> Answer:
        user = front.admit(request)
        refusal_reason.set("")
        try:
            with front.only_upload(user), front.spooled(request) as path, front.pools.admission(user):
                text = service.upload(user, path, key_id(request.hkey)[:ORIGIN_LENGTH])
        except TooLarge:  # legacy clients show a text, and no status
            text = TOO_LARGE
        if text != OK:
            why = refusal_reason.get()
            request.entry.reason = f"upload refused: {why or text}"
        return front.answers.message(request, text.encode())

    def download(request: SyncRequest) -> Answer:
        user = front.admit(request)
        with front.payload(request) as payload, front.pools.transfer(user):
            return front.answers.file(request, service.download(user, request.version, payload))

    steps: dict[str, Step] = {"hostKey": host_key}
    steps |= dict.fromkeys(_MESSAGES, message)
    steps |= {"upload": upload, "download": download}
    front.add_routes(blueprint, "sync", steps)
    return blueprint
