"""The real server with services that only answer: started as a process by the framing tests.

python fakeserver.py PORT FOLDER [option=value ...]
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from app.cli.server import Server, options_of
from app.config import Settings
from app.errors import AuthError, ProtocolError
from app.sync.admission import Admitted
from storage.errors import Unavailable
from storage.types import UserId


def json_or_refuse(payload: bytes) -> object:
    try:
        return json.loads(payload)
    except ValueError as exc:
        raise ProtocolError("invalid json") from exc


class FakeAuthenticator:
    def login(self, username: str, password: str, address: str, client: str) -> str:
        if password != "secret-password":
            raise AuthError("wrong")
        return f"key-of-{username}"

    def authenticate(self, hkey: str) -> str:
        if not hkey.startswith("key-of-"):
            raise AuthError("unknown key")
        return hkey.removeprefix("key-of-")

    def admit(self, hkey: str) -> Admitted:
        return Admitted(UserId(self.authenticate(hkey)))


def broken_blocks() -> Iterator[bytes]:
    yield bytes(300_000)
    raise OSError(errno.EIO, "Input/output error")


class FakeCollections:
    def call(self, admission: Admitted, method: str, skey: str, version: int, payload: bytes) -> bytes:
        user = admission.user
        message = json_or_refuse(payload)
        if method == "abort" and message == {"fail": "bug"}:
            raise RuntimeError("a bug of ours")
        if method == "abort" and message == {"fail": "away"}:
            raise Unavailable("the store is away", 7)
        if method == "sanityCheck2":
            time.sleep(float(message))
        if method == "chunk":
            return b"[" + b"1234567," * message + b"0]"
        return json.dumps(
            {"user": user, "method": method, "skey": skey, "version": version, "got": message}
        ).encode()

    def refuse(self, text: str) -> bytes:
        return json.dumps({"refused": text}).encode()

    def upload(self, user: str, path: Path, device: str) -> str:
        with path.open("rb") as file:
            return f"{hashlib.file_digest(file, 'sha256').hexdigest()} {path.stat().st_size}"

    def download(self, user: str, version: int, payload: bytes, device: str) -> object:
        message = json_or_refuse(payload) or {"blocks": 3}
        if message.get("fail"):
            return SimpleNamespace(size_bytes=600_000, blocks=broken_blocks())
        blocks = message["blocks"]
        told = blocks + message.get("lie", 0)
        return SimpleNamespace(
            size_bytes=told * 300_000, blocks=(bytes([n % 251]) * 300_000 for n in range(blocks))
        )


class FakeMedia:
    def call(self, user: str, method: str, hkey: str, payload: bytes) -> bytes:
        return json.dumps({"data": [user, method, json_or_refuse(payload)], "err": ""}).encode()

    def refuse(self, text: str) -> bytes:
        return json.dumps({"refused": text}).encode()

    def upload_changes(self, user: str, zipped: bytes | Path, device: str) -> bytes:
        """Where the zip is, its size and sum."""
        content = zipped if isinstance(zipped, bytes) else zipped.read_bytes()
        place = "memory" if isinstance(zipped, bytes) else "file"
        return json.dumps([place, len(content), hashlib.sha256(content).hexdigest()]).encode()

    def download_files(self, user: str, payload: bytes) -> object:
        return SimpleNamespace(size_bytes=6, blocks=iter((b"abc", b"def")))


def build(settings: Settings) -> object:
    from app.http.dispatch import make_application  # noqa: PLC0415 - after the monkey patch
    from app.main import make_pipeline, make_pools  # noqa: PLC0415

    pools = make_pools()
    spool = settings.cache_dir / "spool"
    spool.mkdir(parents=True, exist_ok=True)
    pipeline = make_pipeline(
        settings,
        pools,
        FakeAuthenticator(),
        spool,
        closed_text=str,
        failures=SimpleNamespace(note=lambda *_: None),
    )
    app = make_application(pipeline, FakeCollections(), FakeMedia())
    return SimpleNamespace(
        wsgi_app=app.wsgi_app,
        run_forever=lambda: None,
        watch_orders=lambda: None,
        watch=None,
        observe=None,
        has_users=lambda: True,
        close=lambda: None,
    )


if __name__ == "__main__":
    os.environ.setdefault("ANKISYNCD_WORKERS", "1")
    settings = Settings.from_env(os.environ)
    Server(options_of(settings), lambda: build(settings)).run()
