"""What both blueprints do with a request before a service sees it: unwrap it, log it, authenticate it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import flask

from app.errors import SessionConflict, UnknownMethod
from app.http.body import Room, Share
from app.http.errors import LOGGER_NAME
from app.http.failed import Failures, note_failure
from app.http.limits import LOGIN_LIMITS, MessageLimits, limits_of
from app.http.request import RequestReader, SyncRequest
from app.http.response import Answer, Answers, as_response
from app.json_reader import check_structure
from app.offload import ThreadPools
from app.sync.admission import Admission
from storage.types import UserId

Step = Callable[[SyncRequest], Answer]
"""Answers an unwrapped request; all but hostKey ask `Front.admit` first of all."""

_HELD_BYTES = 64 * 1024 * 1024
"""What small files that are being uploaded may take of a process's memory; more of them go to the disk."""

_MESSAGES_BYTES = 512 * 1024 * 1024
"""What messages that are not small, and the values decoded from them, may take of a process's memory."""

_VALUE_BYTES = 100
"""Of a decoded value, on average: an empty list has 64 bytes, a small number 36, a dict of one key 200."""

_INLINE_BYTES = 64 * 1024
"""A message of this size is looked through faster than it is handed to a thread."""


class Authenticator(Protocol):
    """What the blueprints ask of app.auth."""

    def login(self, username: str, password: str, address: str, client: str) -> str:
        """Check a password; returns a new host key."""

    def authenticate(self, hkey: str) -> UserId:
        """Whose host key this is."""

    def admit(self, hkey: str) -> Admission:
        """Whose host key this claims to be; to be proven before anything is told."""


WhenClosed = Callable[[SyncRequest, str], Answer]
"""Answers a request while the operator has closed the service; the text is for the user."""


class View:
    """Answers the requests for one method: of the one at hand in Flask, or of any environ."""

    def __init__(  # noqa: PLR0913 - by name
        self,
        reader: RequestReader,
        method: str,
        step: Step,
        *,
        closed_text: Callable[[], str],
        when_closed: WhenClosed,
        failures: Failures,
    ) -> None:
        self._reader, self._method, self._step = reader, method, step
        self._closed_text, self._when_closed, self._failures = closed_text, when_closed, failures

    def __call__(self) -> flask.Response:
        """As Flask calls it."""
        return as_response(self.answer(flask.request.environ))

    def answer(self, environ: MutableMapping[str, Any]) -> Answer:
        """The answer to one request.

        Raises: whatever `app.http.errors` has an answer for.
        """
        request = self._reader.read(self._method, environ)
        if text := self._closed_text():
            request.entry.reason = f"closed: {text}"
            return self._when_closed(request, text)
        try:
            answer = self._step(request)
        except Exception as exc:
            note_failure(self._failures, request, exc)
            raise
        if request.entry.reason:
            note_failure(self._failures, request)
        return answer


class Payload:
    """A message, and the memory that was counted for it; a context manager."""

    __slots__ = ("_content", "_share")

    def __init__(self, content: bytes, share: Share) -> None:
        self._content, self._share = content, share

    def __enter__(self) -> bytes:
        return self._content

    def __exit__(self, *_exc: object) -> None:
        self._share.close()


class Front:
    """The way into one worker process."""

    def __init__(  # noqa: PLR0913 - all that a request may need
        self,
        *,
        reader: RequestReader,
        answers: Answers,
        authenticator: Authenticator,
        pools: ThreadPools,
        folder: Path,
        message_limit_bytes: int,
        closed_text: Callable[[], str],
        failures: Failures,
    ) -> None:
        """`closed_text`: what the operator wants users to be told; empty while the service is open."""
        self.reader = reader
        self._closed_text, self._failures = closed_text, failures
        self.answers = answers
        self.authenticator = authenticator
        self.pools = pools
        self._folder = folder
        self._message_limit_bytes = message_limit_bytes
        self._room = Room(_HELD_BYTES)
        self._uploading: set[UserId] = set()
        self._messages = Room(max(_MESSAGES_BYTES, 4 * message_limit_bytes))

    def admit(self, request: SyncRequest) -> UserId:
        """Whose request it is; asked after its form is checked, and before its payload is read.

        Raises: AuthError.
        """
        user = request.entry.user = self.authenticator.authenticate(request.hkey)
        self.pools.serve(user)
        return user

    def claim(self, request: SyncRequest) -> Admission:
        """Whose request it claims to be.

        It is left to the service to prove that, which it may do by the head record that it reads anyway. A
        body that has not come as a whole is only waited for if the host key is proven to be good.
        Raises: AuthError.
        """
        admission = self.authenticator.admit(request.hkey)
        if not request.body.is_small:
            admission.prove()
            request.entry.user = admission.user
        self.pools.serve(admission.user)
        return admission

    def add_routes(
        self, blueprint: flask.Blueprint, room: str, steps: Mapping[str, Step], when_closed: WhenClosed
    ) -> None:
        """Let `blueprint` answer POST /<room>/<method> by the step of each method.

        A path for each is matched faster than a variable. An unknown method is 400, as the official
        server has it, and not 404.
        """
        for method, step in steps.items():
            blueprint.add_url_rule(
                f"/{room}/{method}", method, self.view(method, step, when_closed), methods=["POST"]
            )
        known = ", ".join(f"`{method}`" for method in steps)

        @blueprint.post(f"/{room}/<method>")
        def unknown(method: str) -> flask.Response:  # noqa: ARG001 - named so by the route
            raise UnknownMethod(f"unknown method, expected one of {known}")

    def view(self, method: str, step: Step, when_closed: WhenClosed) -> View:
        """A view that unwraps a request and lets `step` answer it."""
        return View(
            self.reader,
            method,
            step,
            closed_text=self._closed_text,
            when_closed=when_closed,
            failures=self._failures,
        )

    def payload(self, request: SyncRequest) -> Payload:
        """The message that the request of an authenticated user carries; to be used within its block.

        Raises: ProtocolError (of it PayloadTooLarge above the limits of the method); Unavailable if the
        requests of all users together, or those of this user, take too much memory.
        """
        share = self._messages.share(request.entry.user)
        limits = limits_of(request.method, self._message_limit_bytes)
        try:
            return Payload(self._checked(request, limits, share), share)
        except BaseException:
            share.close()
            raise

    def login_payload(self, request: SyncRequest) -> bytes:
        """The message of a client that is not authenticated yet.

        Raises: ProtocolError (of it PayloadTooLarge above `LOGIN_LIMITS`); Unavailable.
        """
        with self._messages.share("") as share:
            return self._checked(request, LOGIN_LIMITS, share)

    def _checked(self, request: SyncRequest, limits: MessageLimits, share: Share) -> bytes:
        payload = request.body.read(limits.size_bytes, share)
        if len(payload) <= _INLINE_BYTES:
            check_structure(payload, most_values=limits.values)
            return payload
        values = self.pools.run(lambda: check_structure(payload, most_values=limits.values))
        share.need(values * _VALUE_BYTES)
        return payload

    @contextmanager
    def held(self, request: SyncRequest) -> Iterator[bytes | Path]:
        """The file that the request carries: its bytes where it is small, else as `spooled` gives it.

        Raises: ProtocolError; TooLarge.
        """
        with self._room.share(request.entry.user) as share:
            with self.pools.transfer(request.entry.user):
                content = request.body.hold(share)
                if content is not None:
                    yield content
                    return
            with self.spooled(request) as path:
                yield path

    @contextmanager
    def spooled(self, request: SyncRequest) -> Iterator[Path]:
        """The file that the request carries; gone after the block, unless it was moved away.

        Raises: ProtocolError; TooLarge.
        """
        path = self._folder / f"{uuid.uuid4().hex}.body"
        try:
            with self.pools.transfer(request.entry.user):
                request.body.spool(path)
            yield path
        finally:
            self._remove(path)

    @contextmanager
    def only_upload(self, user: UserId) -> Iterator[None]:
        """One upload of a collection a user at a time, in this process.

        Raises: SessionConflict if there is another.
        """
        if user in self._uploading:
            raise SessionConflict("another upload of this user is running")
        self._uploading.add(user)
        try:
            yield
        finally:
            self._uploading.discard(user)

    def _remove(self, path: Path) -> None:
        """Remove a temporary file. What is left of one is found by the upkeep, and no reason to fail."""
        try:
            self.pools.run(lambda: path.unlink(missing_ok=True))
        except OSError as exc:
            logging.getLogger(LOGGER_NAME).warning("a temporary file cannot be removed: %s", exc)
