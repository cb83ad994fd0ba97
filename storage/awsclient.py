"""Faster clients for the calls of DynamoDB and S3 that every sync makes, with the SDK as their fallback.

`app.cloud` uses `DirectDynamoDB` and `DirectS3` in place of the SDK's clients; calls, arguments, answers
and errors are the same. They work together with the SDK:

- The first call goes through the SDK. Endpoint, bucket addressing, region and kind of signature are read from
  its request, so all ways of configuring them work.
- After that, the first attempt of a call is a direct request, signed with the SDK's credentials.
- If that attempt is no plain success (no connection, a timeout, any status but 200 or 206, a wrong checksum),
  the SDK makes the call, with the outcome of the direct request in place of its own first attempt. So
  retries, back-off, retry quota, redirects and errors are the SDK's, and no request is sent more often.

The SDK handles everything else: other calls and arguments, proxies, other signatures, large bodies.
"""

from __future__ import annotations

import io
from base64 import b64decode
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partialmethod
from hashlib import sha256
from types import SimpleNamespace
from typing import Any, Final, TypedDict
from urllib.parse import quote, urlsplit
from zlib import crc32

import msgspec
from botocore.awsrequest import AWSResponse
from botocore.exceptions import BotoCoreError, ClientError
from botocore.utils import get_environ_proxies
from urllib3 import HTTPHeaderDict, HTTPResponse

from storage.awshttp import Answer, Connections, Headers, Signer, Tls

_LARGE_BYTES: Final = 1 << 20
"""Larger bodies are sent by the SDK, which waits for `100 Continue` before it sends them."""
_MOST_REFUNDS: Final = 500
"""The size of the SDK's retry quota."""
_EMPTY_SHA256: Final = sha256(b"").hexdigest()
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(slots=True)
class _SdkCall:
    """One call of the SDK: the outcome of the direct attempt before it, and the last request that it sent."""

    first: Answer | BotoCoreError | None
    request: Any = None
    signer: Any = None


_CURRENT: ContextVar[_SdkCall | None] = ContextVar("aws call", default=None)


def is_handed_over() -> bool:
    """Whether the SDK is about to use the outcome of a direct attempt. For hooks in tests."""
    call = _CURRENT.get()
    return call is not None and call.first is not None


class _Route:
    """Where requests go and how they are signed, as read from a request of the SDK."""

    def __init__(self, client: Any, request: Any, signer: Any) -> None:
        """Raises: ValueError if only the SDK can make such a request."""
        url = urlsplit(request.url)
        # The header has the algorithm, and a credential of key, day, region, service and a constant.
        scope = _text(request.headers.get("Authorization", "")).partition("Credential=")
        _, _, self._region, self._service, _ = scope[2].partition(",")[0].rsplit("/", 4)
        proxies = client.meta.config.proxies or get_environ_proxies(request.url)
        if (
            scope[0] != "AWS4-HMAC-SHA256 "
            or url.query
            or not url.hostname
            or url.scheme in proxies
            or "x-amz-s3session-token" in request.headers
        ):
            raise ValueError("a request that only the SDK can make")
        self.path = url.path
        port = url.port or _PORTS[url.scheme]
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        self.host = host if port == _PORTS[url.scheme] else f"{host}:{port}"
        self.url = f"{url.scheme}://{self.host}"
        self._agent = _text(request.headers["User-Agent"])
        self._request_signer = signer
        self._signer = Signer(self._service, self._region)
        # The only use of private attributes of the SDK: there is no public way to its TLS settings.
        session = client._endpoint.http_session  # noqa: SLF001
        tls = Tls(session._verify, session._cert_file, session._key_file)  # noqa: SLF001
        config = client.meta.config
        self._connections = Connections(
            url.hostname,
            port,
            tls if url.scheme == "https" else None,
            connect_timeout_s=config.connect_timeout,
            read_timeout_s=config.read_timeout,
            most=config.max_pool_connections,
        )

    def send(self, method: str, path: str, headers: Headers, body: bytes, body_sha256: str) -> Answer:
        """Make one attempt; `headers` have lower-case names. Raises: BotoCoreError."""
        headers["host"] = self.host
        # Fetches new credentials if the present ones are about to expire.
        auth = self._request_signer.get_auth_instance(self._service, self._region, "v4")
        self._signer.sign(auth.credentials, method, path, headers, body_sha256)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        # GET and HEAD have no body.
        length = f"content-length: {len(body)}\r\n" if method in {"PUT", "POST"} else ""
        head = (
            f"{method} {path} HTTP/1.1\r\n{lines}user-agent: {self._agent}\r\n"
            f"accept-encoding: identity\r\n{length}\r\n"
        )
        return self._connections.send(method, head.encode(), body)


class _Direct:
    """The common part of both clients. Calls that are not defined in a client go to the SDK's."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._successes = 0
        """Successful direct requests that are not in the SDK's retry quota yet."""
        client.meta.events.register_last("before-sign", _note_signer)
        client.meta.events.register_last("before-send", _note_request)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def _send(self, route: _Route, *request: Any) -> Answer:
        """Send a direct request. Tests replace this, as they hook the SDK's event `before-send`."""
        return route.send(*request)

    def _by_sdk(
        self, operation: str, parameters: dict[str, Any], first: Answer | BotoCoreError | None = None
    ) -> tuple[dict[str, Any], _SdkCall]:
        """Let the SDK make the call, with the outcome of the direct attempt as its first."""
        self._refund()
        call = _SdkCall(first)
        token = _CURRENT.set(call)
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**parameters)
        finally:
            _CURRENT.reset(token)
        return answer, call

    def _refund(self) -> None:
        """Report direct successes to the SDK, as each one adds to its retry quota."""
        count, self._successes = min(self._successes, _MOST_REFUNDS), 0
        service = self._client.meta.service_model.service_id.hyphenize()
        for _ in range(count):
            self._client.meta.events.emit(
                f"after-call.{service}", http_response=_OK, parsed={}, model=None, context={}
            )


_OK: Final = SimpleNamespace(status_code=200)


def _note_signer(request_signer: Any, **_: Any) -> None:
    if (call := _CURRENT.get()) is not None:
        call.signer = request_signer


def _note_request(request: Any, **_: Any) -> AWSResponse | None:
    """Hook of the SDK's event `before-send`: an answer returned here replaces the request to the server."""
    call = _CURRENT.get()
    if call is None:
        return None
    # Called for each attempt; the last one counts.
    call.request = request
    # Used once: the SDK's next attempts go to the server.
    first, call.first = call.first, None
    if isinstance(first, BotoCoreError):
        raise first
    if first is None:
        return None
    headers = HTTPHeaderDict(first.headers.items())
    raw = HTTPResponse(
        io.BytesIO(first.body), headers, first.status, preload_content=False, enforce_content_length=False
    )
    return AWSResponse(request.url, first.status, headers, raw)


class _Value(TypedDict, total=False):
    """An attribute of an item."""

    S: str
    N: str
    B: bytes
    BOOL: bool
    NULL: bool
    L: list[_Value]
    M: dict[str, _Value]
    SS: list[str]
    NS: list[str]
    BS: list[bytes]


_Item = dict[str, _Value]


class _Keys(TypedDict, total=False):
    Keys: list[_Item]
    ConsistentRead: bool


class _Items(TypedDict, total=False):
    """Answers of the calls below."""

    Item: _Item
    Attributes: _Item
    Responses: dict[str, list[_Item]]
    UnprocessedKeys: dict[str, _Keys]


_encode: Final = msgspec.json.Encoder().encode
_ONCE: Final = {"HTTPStatusCode": 200, "RetryAttempts": 0}
_items: Final = msgspec.json.Decoder(_Items)


class DirectDynamoDB(_Direct):
    """A client of DynamoDB with direct `get_item`, `batch_get_item` and `update_item`."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._route: _Route | None = None

    def _call(self, operation: str, target: str, **parameters: Any) -> dict[str, Any]:
        route = self._route
        first: Answer | BotoCoreError | None = None
        if route is not None:
            try:
                body = _encode(parameters)  # msgspec encodes bytes as base64, as the protocol wants them
                first = self._attempt(route, target, body)
                if first.status == 200 and _is_sound(first):
                    found: dict[str, Any] = {**_items.decode(first.body), "ResponseMetadata": _ONCE}
                    self._successes += 1
                    return found
            except BotoCoreError as exc:
                first = exc
            except (msgspec.MsgspecError, TypeError):
                pass  # the SDK raises the right error for the arguments, or for the answer
        answer, call = self._by_sdk(operation, parameters, first)
        self._learn(call)
        return answer

    get_item = partialmethod(_call, "get_item", "GetItem")
    batch_get_item = partialmethod(_call, "batch_get_item", "BatchGetItem")
    update_item = partialmethod(_call, "update_item", "UpdateItem")

    def _attempt(self, route: _Route, operation: str, body: bytes) -> Answer:
        headers = {
            "content-type": "application/x-amz-json-1.0",
            "x-amz-target": f"DynamoDB_20120810.{operation}",
        }
        return self._send(route, "POST", "/", headers, body, sha256(body).hexdigest())

    def _learn(self, call: _SdkCall) -> None:
        request = call.request
        if self._route is not None and request.url == self._route.url + "/":
            return
        with suppress(ValueError):
            route = _Route(self._client, request, call.signer)
            # A later SDK may use another protocol of DynamoDB: then there is no route, and it makes all
            # calls.
            if route.path == "/" and "X-Amz-Target" in request.headers:
                self._route = route


def _is_sound(answer: Answer) -> bool:
    """Whether the answer's checksum is right; the SDK retries a call if it is not.

    Source: special.py in botocore.retries.
    """
    told = answer.headers.get("x-amz-crc32")
    return told is None or told == str(crc32(answer.body))


class DirectS3(_Direct):
    """A client of S3 with direct `get_object`, `head_object` and `put_object` (of small objects).

    Answers have only ETag, ContentLength, ContentRange, LastModified and the headers; the body of an
    object has been received completely.
    """

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._routes: dict[str, tuple[_Route, str]] = {}
        """Bucket -> (route, the part of the path before the key)."""

    def _call(self, operation: str, method: str, **parameters: Any) -> dict[str, Any]:
        bucket, key = parameters["Bucket"], parameters["Key"]
        first: Answer | BotoCoreError | None = None
        if bucket in self._routes and (request := _request_of(method, parameters)) is not None:
            route, base = self._routes[bucket]
            try:
                first = self._send(route, method, base + _quoted(key), *request)
                if first.status in {200, 206}:
                    self._successes += 1
                    return _object_answer(method, first)
            except BotoCoreError as exc:
                first = exc
            else:
                if first.status == 404 and method == "HEAD":  # a frequent answer, and it has no body to parse
                    raise ClientError(_NOT_THERE, "HeadObject")
        answer, call = self._by_sdk(operation, parameters, first)
        self._learn(bucket, key, call)
        return answer

    get_object = partialmethod(_call, "get_object", "GET")
    head_object = partialmethod(_call, "head_object", "HEAD")
    put_object = partialmethod(_call, "put_object", "PUT")

    def _learn(self, bucket: str, key: str, call: _SdkCall) -> None:
        # The SDK made the call: keep the route if it is the same, else learn the new one (a redirect, for
        # example).
        known = self._routes.get(bucket)
        if known is not None and call.request.url == known[0].url + known[1] + _quoted(key):
            return
        with suppress(ValueError):
            route = _Route(self._client, call.request, call.signer)
            if route.path.endswith("/" + _quoted(key)):
                self._routes[bucket] = route, route.path.removesuffix(_quoted(key))


_NOT_THERE: Final[Any] = {
    "Error": {"Code": "404", "Message": "Not Found"},
    "ResponseMetadata": {"HTTPStatusCode": 404, "RetryAttempts": 0},
}
_HEADERS: Final = {
    "Range": "range",
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
    "ChecksumSHA256": "x-amz-checksum-sha256",
}


def _request_of(method: str, parameters: dict[str, Any]) -> tuple[Headers, bytes, str] | None:
    """(headers, body, SHA-256 of the body in hex) of a direct request; None if only the SDK can make it."""
    body = parameters.get("Body", b"")
    if not isinstance(body, bytes) or len(body) > _LARGE_BYTES:
        return None
    headers = {}
    for name, value in parameters.items():
        if name in _HEADERS:
            headers[_HEADERS[name]] = value
        elif name not in {"Bucket", "Key", "Body"}:
            return None
    if method != "PUT":
        digest = _EMPTY_SHA256
    elif "ChecksumSHA256" in parameters:
        digest = b64decode(parameters["ChecksumSHA256"]).hex()  # the caller has hashed the body already
    else:
        digest = sha256(body).hexdigest()
    headers["x-amz-content-sha256"] = digest
    return headers, body, digest


def _object_answer(method: str, answer: Answer) -> dict[str, Any]:
    headers = answer.headers
    told = {"HTTPStatusCode": answer.status, "RetryAttempts": 0, "HTTPHeaders": headers}
    found: dict[str, Any] = {"ResponseMetadata": told}
    if (etag := headers.get("etag")) is not None:
        found["ETag"] = etag
    if method == "GET":
        found |= {"Body": io.BytesIO(answer.body), "ContentLength": len(answer.body)}
        if (content_range := headers.get("content-range")) is not None:
            found["ContentRange"] = content_range
    if method == "HEAD":
        found["ContentLength"] = int(headers["content-length"])
        found["LastModified"] = parsedate_to_datetime(headers["last-modified"])
    return found


def _quoted(key: str) -> str:
    return quote(key, safe="/~")


def _text(header: str | bytes) -> str:
    return header.decode() if isinstance(header, bytes) else header
