"""Raw requests of the sync protocol, well formed or not, and their answers."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlencode

import zstandard

CLIENT = "26.09,tests,linux"
BOUNDARY = "boundary-of-the-tests"
MEDIA_METHODS = frozenset({"begin", "mediaChanges", "uploadChanges", "downloadFiles", "mediaSanity"})


@dataclass(frozen=True)
class Answer:
    """Status, headers in lower case, and the body as the client would read it."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def ok(self) -> bool:
        return self.status == 200

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def dump(payload: Any) -> bytes:
    """A payload as it goes over the wire; bytes stay what they are."""
    if isinstance(payload, bytes):
        return payload
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()


def sync_header(hkey: str, skey: str, version: int = 11) -> str:
    return json.dumps({"v": version, "k": hkey, "c": CLIENT, "s": skey}, ensure_ascii=True)


def multipart(fields: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    for name, value in fields.items():
        filename = '; filename="data"' if name == "data" else ""
        out.write(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'.encode())
        out.write(value + b"\r\n")
    out.write(f"--{BOUNDARY}--\r\n".encode())
    return out.getvalue()


def media_zip(entries: Sequence[tuple[str, bytes | None]], meta: Any = None) -> bytes:
    """The zip of uploadChanges: `(name, content)`, where no content means a deletion."""
    out = io.BytesIO()
    names: list[list[str | None]] = []
    with zipfile.ZipFile(out, "w") as archive:
        for index, (name, content) in enumerate(entries):
            names.append([name, None if content is None else str(index)])
            if content is not None:
                archive.writestr(str(index), content)
        archive.writestr("_meta", dump(names if meta is None else meta))
    return out.getvalue()


def read_zip(body: bytes) -> dict[str, bytes]:
    """The files of a downloadFiles answer by their real names, in their order."""
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        names = json.loads(archive.read("_meta"))
        return {names[member]: archive.read(member) for member in sorted(names, key=int)}


class Wire:
    """One connection of one user, kept open between requests."""

    def __init__(self, port: int, hkey: str = "", skey: str = "", timeout_s: float = 60) -> None:
        self.port, self.hkey, self.skey = port, hkey, skey
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.connection.close()

    def login(self, name: str, password: str) -> str:
        answer = self.call("hostKey", {"u": name, "p": password})
        assert answer.ok, answer
        self.hkey = answer.json["key"]
        return self.hkey

    def call(self, method: str, payload: Any, *, skey: str | None = None, version: int = 11) -> Answer:
        """A request with header and zstd, as clients since 2.1.57 send it."""
        header = sync_header(self.hkey, self.skey if skey is None else skey, version)
        return self.send(path_of(method), {"anki-sync": header}, zstandard.compress(dump(payload)))

    def legacy(self, method: str, payload: Any, *, skey: str | None = None, packed: bool = True) -> Answer:
        """A multipart request, as clients before that send it."""
        fields = {"c": b"1" if packed else b"0", "k": self.hkey.encode()}
        fields["s"] = (self.skey if skey is None else skey).encode()
        data = dump(payload)
        return self.form(method, fields | {"data": gzip.compress(data, mtime=0) if packed else data})

    def form(self, method: str, fields: dict[str, bytes]) -> Answer:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return self.send(path_of(method), {"content-type": kind}, multipart(fields))

    def legacy_begin(self, hkey: str, version: str) -> Answer:
        return self.send("msync/begin?" + urlencode({"k": hkey, "v": version}), {}, None, verb="GET")

    def send(self, path: str, headers: dict[str, str], body: bytes | None, *, verb: str = "POST") -> Answer:
        for last_try in (False, True):
            try:
                self.connection.request(verb, "/" + path, body, headers)
                response = self.connection.getresponse()
                content = response.read()
                break
            except (ConnectionError, http.client.HTTPException):
                # the server may close an idle connection at any time
                self.connection.close()
                if last_try:
                    raise
        found = {name.lower(): value for name, value in response.getheaders()}
        if "anki-original-size" in found:
            content = self.unpack(content)
            assert int(found["anki-original-size"]) == len(content)
        return Answer(response.status, found, content)

    @staticmethod
    def unpack(body: bytes) -> bytes:
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)

    def upload(self, collection: bytes) -> Answer:
        return self.call("upload", collection)

    def download(self) -> bytes:
        answer = self.call("download", {})
        assert answer.ok, answer
        return answer.body


def path_of(method: str) -> str:
    return f"{'msync' if method in MEDIA_METHODS else 'sync'}/{method}"
