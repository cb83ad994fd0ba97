"""Inputs that follow from a seed and a number: heads, bodies, forms, typed messages, zips and databases.

Each is a sound request of its kind that was changed in one to a few places.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import zstandard

from tests.fuzz.messages import MESSAGES, ODD, UNREADABLE, places
from tests.support.wire import media_zip, multipart, path_of, sync_header

_BOUNDARY = "boundary-of-the-tests"
_NEWLINES = (b"\r\n", b"\n", b"\r", b"\r\n ", b"\r\n\t", b"\r\n\r\n", b"\x0b", b"\x00", b" ")
_WORDS = (
    b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: -1\r\n", b"Content-Length: +5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Expect: 100-continue\r\n",
    b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"X_Y: 1\r\n", b": no name\r\n",
    b"anki-sync: {}\r\n", b"host: a\r\nhost: b\r\n", b"x: " + b"y" * 9000 + b"\r\n", b"x: \xff\xfe\x00\r\n",
    b"Range: bytes=0-\r\n", b"Content-Encoding: gzip\r\n", b" folded: line\r\n",
)  # fmt: skip
_PATHS = (
    b"/sync/meta", b"/", b"*", b"//sync/meta", b"/sync/%6deta", b"/../../etc/passwd", b"http://x/sync/meta",
    b"/sync/" + b"a" * 5000, b"/sync/meta?k=" + b"b" * 3000, b"/\xff\xfe", b"/msync/begin?k=1&v=2&k=3",
    b"/health", b"/sync/meta#x", b"/sync/meta;x=1", b"", b"x:1", b"/msync/begin?v=%ff&k=%00",
)  # fmt: skip
_VERBS = (
    b"POST",
    b"GET",
    b"HEAD",
    b"PUT",
    b"post",
    b"OPTIONS",
    b"CONNECT",
    b"PRI",
    b"",
    b"PO ST",
    b"X" * 300,
)


@dataclass(frozen=True)
class Sounds:
    """What sound requests are made of: the keys of a user, and a collection."""

    hkey: str
    collection: bytes


@dataclass
class Input:
    """Bytes for a connection, in pieces. `ends`: nothing follows, so the client closes its side."""

    kind: str
    pieces: list[bytes] = field(default_factory=list)
    ends: bool = True


def make_input(seed: str, number: int, sounds: Sounds) -> Input:
    """The input of this number; the same for the same seed."""
    rng = random.Random(f"{seed}/{number}")
    (kind,) = rng.choices(list(_KINDS), [weight for weight, _ in _KINDS.values()])
    made = _KINDS[kind][1](rng, sounds)
    made.kind = kind
    if made.ends and rng.random() < 0.3 and len(made.pieces) == 1:
        made.pieces = _in_pieces(rng, made.pieces[0])
    return made


def mutated(rng: random.Random, data: bytes, words: tuple[bytes, ...] = ()) -> bytes:
    """The data, changed in one to five places."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        at, length = rng.randrange(len(content) + 1), rng.choice((1, 1, 2, 4, 16, 200))
        match rng.randrange(7):
            case 0 if content:
                content[at % len(content)] ^= 1 << rng.randrange(8)
            case 1:
                content[at:at] = rng.randbytes(length)
            case 2:
                del content[at : at + length]
            case 3:
                content[at:at] = content[at : at + length]
            case 4:
                content[at : at + length] = rng.choice((b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"0")) * length
            case 5 if words:
                content[at:at] = rng.choice(words)
            case _:
                del content[at if rng.random() < 0.3 else len(content) :]
    return bytes(content)


def _in_pieces(rng: random.Random, data: bytes) -> list[bytes]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 5)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _request(path: str, lines: list[str], body: bytes) -> bytes:
    head = "\r\n".join(
        [f"POST /{path} HTTP/1.1", "host: anki", *lines, f"content-length: {len(body)}", "", ""]
    )
    return head.encode("latin-1", "replace") + body


def _direct(sounds: Sounds, method: str, packed: bytes, version: int = 11, skey: str = "fuzz") -> bytes:
    return _request(path_of(method), [f"anki-sync: {sync_header(sounds.hkey, skey, version)}"], packed)


def _form(method: str, body: bytes) -> bytes:
    return _request(path_of(method), [f"content-type: multipart/form-data; boundary={_BOUNDARY}"], body)


def _fields(sounds: Sounds, data: bytes) -> dict[str, bytes]:
    return {"c": b"1", "k": sounds.hkey.encode(), "s": b"fuzz", "data": data}


def _method(rng: random.Random) -> str:
    """A login is made seldom: a wrong password costs as much as a hundred other requests."""
    method = rng.choice(list(MESSAGES))
    return rng.choice(("hostKey", *["meta"] * 19)) if method == "hostKey" else method


def _sound_payload(rng: random.Random) -> tuple[str, bytes]:
    method = _method(rng)
    return method, json.dumps(MESSAGES[method]).encode()


def _chunked(rng: random.Random, body: bytes) -> bytes:
    out, at = [], 0
    while at < len(body):
        piece = body[at : at + rng.choice((1, 7, 100, 5000))]
        extension = rng.choice((b"", b"", b"", b";a=b", b' ; q="x"'))
        out.append(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece))
        at += len(piece)
    return b"".join(out) + b"0\r\n" + rng.choice((b"", b"x: y\r\n")) + b"\r\n"


def _heads(rng: random.Random, sounds: Sounds) -> Input:
    method, payload = _sound_payload(rng)
    body = zstandard.compress(payload)
    if rng.random() < 0.3:
        line = f"anki-sync: {sync_header(sounds.hkey, 'fuzz')}\r\n".encode()
        head = b"POST /%s HTTP/1.1\r\nhost: x\r\n%stransfer-encoding: chunked\r\n\r\n"
        data = head % (path_of(method).encode(), line) + _chunked(rng, body)
    else:
        data = _direct(sounds, method, body)
    head, _, rest = data.partition(b"\r\n\r\n")
    match rng.randrange(6):
        case 0:
            head = mutated(rng, head, _WORDS)
        case 1:
            first, _, others = head.partition(b"\r\n")
            lines = [*others.split(b"\r\n"), rng.choice(_WORDS).removesuffix(b"\r\n")]
            rng.shuffle(lines)
            head = b"\r\n".join([first, *lines])
        case 2:
            version = rng.choice((b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"", b"HTTP/1.1 x"))
            _, _, others = head.partition(b"\r\n")
            head = b"%s %s %s\r\n%s" % (rng.choice(_VERBS), rng.choice(_PATHS), version, others)
        case 3:
            head = head.replace(b"\r\n", rng.choice(_NEWLINES), rng.choice((1, 2, -1)))
        case 4:
            rest = mutated(rng, rest, (b"0\r\n\r\n", b"ffffffff\r\n", b"5;\x00\r\n", b"-1\r\n", *_NEWLINES))
        case 5:
            return Input("", [data * rng.randrange(2, 6) + mutated(rng, data)])
    return Input("", [head + rng.choice((b"\r\n\r\n", b"\r\n\r\n", b"\n\n", b"\r\n")) + rest])


def _bodies(rng: random.Random, sounds: Sounds) -> Input:
    method, payload = _sound_payload(rng)
    match rng.randrange(5):
        case 0:
            body = mutated(rng, zstandard.compress(payload))
        case 1:
            body = zstandard.compress(mutated(rng, payload))
        case 2:
            body = zstandard.compress(payload) + rng.randbytes(rng.randrange(200))
        case 3:
            bomb = rng.choice((b"[]," * 500_000, b"\0" * 3_000_000, b'"' * 100_000, b"[" * 300_000))
            body = mutated(rng, zstandard.compress(bomb))
        case _:
            body = rng.randbytes(rng.randrange(400))
    return Input("", [_direct(sounds, method, body, rng.choice((11, 11, 10, 8, 7, 255)))], ends=False)


def _forms(rng: random.Random, sounds: Sounds) -> Input:
    method, payload = _sound_payload(rng)
    data = gzip.compress(payload, mtime=0)
    words = (f"\r\n--{_BOUNDARY}\r\n".encode(), f"--{_BOUNDARY}--".encode(), b'; name="k"', b"\r\n\r\n")
    match rng.randrange(4):
        case 0:
            body = mutated(rng, multipart(_fields(sounds, data)), words)
        case 1:
            body = multipart(_fields(sounds, mutated(rng, data)))
        case 2:
            body = multipart(_fields(sounds, gzip.compress(mutated(rng, payload), mtime=0)))
        case _:
            names = rng.choices(["k", "s", "c", "data", "v", "sk", "x", ""], k=rng.randrange(6))
            body = multipart({name: rng.choice((b"", b"1", payload, b"\xff", data)) for name in names})
    return Input("", [_form(method, body)], ends=False)


def _messages(rng: random.Random, sounds: Sounds) -> Input:
    method = _method(rng)
    before, behind = rng.choice(list(places(method)))
    payload = before + rng.choice(UNREADABLE + ODD) + behind
    if rng.random() < 0.2:
        payload = mutated(rng, payload, tuple(ODD))
    if rng.random() < 0.3:
        return Input(
            "", [_form(method, multipart(_fields(sounds, gzip.compress(payload, 1, mtime=0))))], ends=False
        )
    skey = rng.choice(("fuzz", "fuzz", "other", "", "\u00e4" * 50))
    return Input("", [_direct(sounds, method, zstandard.compress(payload), skey=skey)], ends=False)


def _zips(rng: random.Random, sounds: Sounds) -> Input:
    names = ("a.jpg", "a.jpg", "ü.mp3", "x" * 300, "..", "a/b", "", "\ud7ff", "_meta", "0")
    entries = [
        (rng.choice(names) + str(number % 3), rng.choice((None, b"", b"x" * 30, rng.randbytes(5000))))
        for number in range(rng.randrange(4))
    ]
    meta = rng.choice((None, None, None, [], {}, [["a", "0"]], [["a", "9"]], b"[" * 2000, b'[["\xff","0"]]'))
    zipped = media_zip(entries, meta)
    if rng.random() < 0.7:
        zipped = mutated(rng, zipped, (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06"))
    return Input("", [_direct(sounds, "uploadChanges", zstandard.compress(zipped))], ends=False)


def _databases(rng: random.Random, sounds: Sounds) -> Input:
    content = sounds.collection
    if rng.random() < 0.9:
        content = mutated(rng, content, (b"CREATE", b"unicase", b"\x00" * 4096, b"SQLite format 3\x00"))
    return Input("", [_direct(sounds, "upload", zstandard.compress(content))], ends=False)


_KINDS: dict[str, tuple[int, Callable[[random.Random, Sounds], Input]]] = {
    "head": (35, _heads),
    "body": (20, _bodies),
    "form": (12, _forms),
    "message": (24, _messages),
    "zip": (7, _zips),
    "database": (1, _databases),
}
