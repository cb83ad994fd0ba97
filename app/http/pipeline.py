"""The way of every request, from its environ to its answer: unwrapped, authenticated, read, handled, packed.

What differs from method to method is in a table (`Method`; see `app.http.collection` and `app.http.media`).
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from enum import Enum
from typing import Any, NamedTuple, Protocol

from app.errors import Closed
from app.http.body import Room, Share
from app.http.failed import Failures, note_failure
from app.http.files import Files
from app.http.limits import MessageLimits
from app.http.request import RequestReader, SyncRequest
from app.http.response import Answer, Answers, Download
from app.json_reader import check_structure
from app.offload import ThreadPools
from app.sync.admission import Admission, Admitted
from storage.types import UserId

_MESSAGES_BYTES = 512 * 1024 * 1024
"""What messages that are not small, and the values decoded from them, may take of a process's memory."""

_VALUE_BYTES = 100
"""Of a decoded value, on average: an empty list has 64 bytes, a small number 36, a dict of one key 200."""

_INLINE_BYTES = 64 * 1024
"""A message of this size is looked through faster than it is handed to a thread."""

_NOBODY = Admitted(UserId(""))


class Access(Enum):
    """What is asked of the host key before anything else is done for a request."""

    ANYONE = "nothing: the method hands a key out"
    CLAIMED = "names a user; the service proves it, which it may do by the head record that it reads anyway"
    PROVEN = "is good"


Handler = Callable[[SyncRequest, Admission, bytes], bytes | Download]
"""Answers a request: what it is, whose it is, and its message. Gives a message or a file."""


class Method(NamedTuple):
    """One method of the protocol: a line of the table."""

    prefix: str
    """Which of the protocol's halves it is of: `sync` or `msync`."""
    name: str
    """As the protocol calls it: `meta`."""
    access: Access
    limits: MessageLimits | None
    """Of its message; None: the request carries a file, or nothing, and the handler takes the body itself."""
    handle: Handler
    verbs: tuple[str, ...] = ("POST",)
    refuse: Callable[[str], bytes] | None = None
    """Answers while the service is closed, in a form in which clients show the text; None: 503."""

    @property
    def path(self) -> str:
        """As clients ask for it: `/sync/meta`."""
        return f"/{self.prefix}/{self.name}"


class Authenticator(Protocol):
    """What is asked of app.auth."""

    def login(self, username: str, password: str, address: str, client: str) -> str:
        """Check a password; returns a new host key."""

    def authenticate(self, hkey: str) -> UserId:
        """Whose host key this is."""

    def admit(self, hkey: str) -> Admission:
        """Whose host key this claims to be; to be proven before anything is told."""


class Pipeline:
    """Answers the requests of one worker process."""

    def __init__(  # noqa: PLR0913 - all that a request may need
        self,
        *,
        reader: RequestReader,
        answers: Answers,
        authenticator: Authenticator,
        pools: ThreadPools,
        files: Files,
        message_limit_bytes: int,
        closed_text: Callable[[], str],
        failures: Failures,
    ) -> None:
        """`message_limit_bytes`: no message is larger, whatever the limits of its method.

        `closed_text`: what the operator wants users to be told; empty while the service is open.
        """
        self._reader = reader
        self._answers = answers
        self.authenticator = authenticator
        self.pools = pools
        self.files = files
        self._message_limit_bytes = message_limit_bytes
        self._closed_text, self._failures = closed_text, failures
        self._messages = Room(max(_MESSAGES_BYTES, 4 * message_limit_bytes))

    def answer(self, method: Method, environ: MutableMapping[str, Any]) -> Answer:
        """The answer to one request.

        Raises: whatever `app.http.errors` has an answer for.
        """
        request = self._reader.read(method.name, environ)
        if text := self._closed_text():
            return self._answers.pack(request, _refuse(method, request, text))
        try:
            answer = self._handle(method, request)
        except Exception as exc:
            note_failure(self._failures, request, exc)
            raise
        if request.entry.reason:
            note_failure(self._failures, request)
        return self._answers.pack(request, answer)

    def _handle(self, method: Method, request: SyncRequest) -> bytes | Download:
        caller = self._authenticate(method.access, request)
        try:
            with Share(self._messages, request.entry.user) as share:
                message = b"" if method.limits is None else self._message(request, method.limits, share)
                return method.handle(request, caller, message)
        finally:
            if caller.is_proven:
                request.entry.user = caller.user

    def _authenticate(self, access: Access, request: SyncRequest) -> Admission:
        """Whose request it is, or claims to be; asked after its form is checked, before its payload is read.

        A body that has not come as a whole is only waited for if the host key is proven to be good.
        Raises: AuthError.
        """
        if access is Access.ANYONE:
            return _NOBODY
        caller: Admission
        if access is Access.CLAIMED:
            caller = self.authenticator.admit(request.hkey)
            if not request.body.is_small:
                caller.prove()
        else:
            caller = Admitted(self.authenticator.authenticate(request.hkey))
        if caller.is_proven:
            request.entry.user = caller.user
        self.pools.serve(caller.user)
        return caller

    def _message(self, request: SyncRequest, limits: MessageLimits, share: Share) -> bytes:
        """The message that the request carries.

        Raises: ProtocolError (of it PayloadTooLarge above the limits); Unavailable if the requests of all
        users together, or those of this user, take too much memory.
        """
        message = request.body.read(min(limits.size_bytes, self._message_limit_bytes), share)
        if len(message) <= _INLINE_BYTES:
            check_structure(message, most_values=limits.values)
            return message
        values = self.pools.run(lambda: check_structure(message, most_values=limits.values))
        share.need(values * _VALUE_BYTES)
        return message


def _refuse(method: Method, request: SyncRequest, text: str) -> bytes:
    """The answer while the service is closed. Raises: Closed."""
    request.entry.reason = f"closed: {text}"
    if method.refuse is None:
        raise Closed(text)
    request.entry.error = Closed.__name__
    return method.refuse(text)
