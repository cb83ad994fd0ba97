"""Faults between an AWS client and its engine, for requests of the SDK and for bare ones."""

from __future__ import annotations

import email.message
import http.client
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from botocore.awsrequest import AWSResponse, HeadersDict
from botocore.exceptions import ConnectTimeoutError, HTTPClientError, ReadTimeoutError
from botocore.httpsession import URLLib3Session
from urllib3 import HTTPResponse

from storage.awsclient import _Direct, is_handed_over
from storage.awshttp import Answer

OPERATIONS = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject"}
STREAMED = {"GetObject"}
DYNAMODB_THROTTLED = (400, "ProvisionedThroughputExceededException")
S3_THROTTLED = (503, "SlowDown")


class Wire:
    """Where a client's requests go through: `fault(operation, what, times)` disturbs the next of them."""

    def __init__(self, client) -> None:
        self.requests: list[str] = []
        """The operations sent, repeats of the SDK included."""
        self.sent = []
        """The prepared requests, in the same order."""
        self._plans: dict[str, list[Callable]] = {}
        self._session = URLLib3Session()
        self._service = client.meta.service_model.service_name
        client.meta.events.register("before-send", self._before_send)
        if isinstance(client, _Direct):
            self._pass_on, client._send = client._send, self._direct

    def fault(self, operation: str, what: Fault, times: int = 1) -> None:
        self._plans.setdefault(operation, []).extend([what.run] * times)

    def clear(self) -> None:
        self._plans.clear()
        self.requests.clear()
        self.sent.clear()

    def _before_send(self, request, event_name, **_):
        if is_handed_over():
            return None  # the SDK takes over a bare request, which was counted and disturbed as such
        return self._disturbed(event_name.rpartition(".")[2], request)

    def _direct(self, route, method, path, headers, body, digest) -> Answer:
        target = headers.get("x-amz-target", OPERATIONS.get(method, ""))
        request = _BareRequest(
            method, route.url + path, HeadersDict(headers), body, (route, method, path, headers, body, digest)
        )
        answer = self._disturbed(target.rpartition(".")[2], request) or self.send(request)
        told = email.message.Message()
        for name, value in answer.headers.items():
            told[name] = value
        body, length = answer.content, int(answer.headers.get("content-length", 0))
        if method != "HEAD" and len(body) != length:
            raise HTTPClientError(error=http.client.IncompleteRead(body, length - len(body)))
        return Answer(answer.status_code, told, body)

    def _disturbed(self, operation, request):
        self.requests.append(operation)
        self.sent.append(request)
        plan = self._plans.get(operation)
        return plan.pop(0)(self, operation, request) if plan else None

    def send(self, request) -> AWSResponse:
        """Bring a request to the engine and its whole answer back."""
        if not isinstance(request, _BareRequest):
            return self._session.send(request)
        answer = self._pass_on(*request.way)
        return _answer(request, answer.status, dict(answer.headers), answer.body)

    def refusal(self, request, status: int, code: str) -> AWSResponse:
        if self._service == "dynamodb":
            body = b'{"__type": "com.amazonaws.dynamodb#%s", "message": "planned"}' % code.encode()
        else:
            body = b"<Error><Code>%s</Code><Message>planned</Message></Error>" % code.encode()
        if request.method == "HEAD":
            body = b""
        return _answer(request, status, {"content-length": str(len(body))}, body)

    def throttled(self, request) -> AWSResponse:
        return self.refusal(request, *(DYNAMODB_THROTTLED if self._service == "dynamodb" else S3_THROTTLED))


class _BareRequest(NamedTuple):
    method: str
    url: str
    headers: HeadersDict
    body: bytes
    way: tuple


@dataclass(frozen=True)
class Fault:
    name: str
    run: Callable


def _no_connection(wire, operation, request):
    raise ConnectTimeoutError(endpoint_url=request.url)


def _answer_lost(wire, operation, request):
    wire.send(request).content  # noqa: B018  reads it to its end
    raise ReadTimeoutError(endpoint_url=request.url)


def _error(wire, operation, request):
    return wire.refusal(request, 500, "InternalError" if wire._service == "s3" else "InternalServerError")


def _error_landed(wire, operation, request):
    wire.send(request).content  # noqa: B018
    return _error(wire, operation, request)


def _away(wire, operation, request):
    return wire.refusal(request, 503, "ServiceUnavailable")


def _throttled(wire, operation, request):
    return wire.throttled(request)


def _cut(wire, operation, request):
    answer = wire.send(request)
    body = answer.content
    if operation not in STREAMED or answer.status_code >= 300:
        # As the SDK has it where a body breaks that it reads itself.
        raise HTTPClientError(error=ConnectionResetError("cut off"))
    return _answer(request, answer.status_code, dict(answer.headers), body[: len(body) // 2])


def _flipped(wire, operation, request):
    answer = wire.send(request)
    body = bytearray(answer.content)
    if body:
        body[len(body) // 2] ^= 1
    return _answer(request, answer.status_code, dict(answer.headers), bytes(body))


def _answer(request, status: int, headers: dict[str, str], body: bytes) -> AWSResponse:
    raw = HTTPResponse(
        io.BytesIO(body),
        headers,
        status,
        preload_content=False,
        decode_content=False,
        enforce_content_length=False,  # the SDK does it itself
        request_method=request.method,
    )
    return AWSResponse(request.url, status, raw.headers, raw)


NO_CONNECTION = Fault("no connection", _no_connection)
ANSWER_LOST = Fault("answer lost", _answer_lost)
ERROR = Fault("500", _error)
ERROR_LANDED = Fault("500, landed", _error_landed)
AWAY = Fault("503", _away)
THROTTLED = Fault("throttled", _throttled)
CUT = Fault("answer cut", _cut)
FLIPPED = Fault("bit flipped", _flipped)

FAULTS = [NO_CONNECTION, ANSWER_LOST, ERROR, ERROR_LANDED, AWAY, THROTTLED, CUT, FLIPPED]
