"""A media service over stores in memory, the official server beside it, and a maker of zips."""

import contextlib
import io
import itertools
import json
import threading
import time
import zipfile
from collections import defaultdict

import msgspec
import pytest

from app.errors import FileMissing, ProtocolError
from app.media.gate import IndexGate, Waiting
from app.media.service import MediaService
from storage.heads.memory import MemoryHeadStore
from storage.media.blobs import Blobs
from storage.objects.memory import MemoryObjectStore
from storage.types import UserId, run_inline
from tests.support.clock import Clock
from tests.support.databases import make_store
from tests.support.wire import Wire


class Worker:
    """One worker process: a service with a folder of its own, over stores that it shares."""

    def __init__(self, folder, heads, objects, nonce, clock_ms, limit_bytes):
        cache, scratch = folder / "cache", folder / "scratch"
        cache.mkdir(parents=True)
        scratch.mkdir()
        locks = defaultdict(threading.Lock)
        self.scratch = scratch
        self.waited_s = 0.0
        self.heads, self.objects = heads, objects
        self.store = make_store(heads, objects, cache, clock_ms, nonce)
        self.gate = IndexGate(
            self.store,
            locks=locks.__getitem__,
            offload=run_inline,
            clock_ms=clock_ms,
            nonce=nonce,
            scratch=scratch,
            waiting=Waiting(self._sleep, lambda: self.waited_s),
        )
        self.service = MediaService(
            self.gate,
            Blobs(objects, fresh_ms=1000),
            offload=run_inline,
            clock_ms=clock_ms,
            scratch=scratch,
            limit_bytes=limit_bytes,
        )
        self._upload = folder / "upload"

    def _sleep(self, seconds):
        self.waited_s += seconds
        time.sleep(0)  # others go on

    def call(self, user, method, message, hkey="key"):
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        answer = json.loads(self.service.call(UserId(user), method, hkey, payload))
        assert answer.pop("err") == ""
        return answer["data"]

    def upload(self, user, zipped, *, as_file=False):
        if as_file:
            self._upload.write_bytes(zipped)
        given = self._upload if as_file else zipped
        answer = json.loads(self.service.upload_changes(UserId(user), given))
        assert answer.pop("err") == ""
        return answer["data"]

    def download(self, user, files):
        payload = files if isinstance(files, bytes) else json.dumps({"files": files}).encode()
        download = self.service.download_files(UserId(user), payload)
        zipped = b"".join(download.blocks)
        assert len(zipped) == download.size_bytes
        return zipped

    def request(self, user, method, payload):
        """Status and decoded answer, as the HTTP room would give them."""
        try:
            if method == "uploadChanges":
                return 200, self.upload(user, payload)
            if method == "downloadFiles":
                return 200, unzipped(self.download(user, payload))
            return 200, self.call(user, method, payload)
        except ProtocolError:
            return 400, None
        except FileMissing:
            return 409, None


def unzipped(content):
    """{name: content} in order, of a zip that a client downloaded."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        names = json.loads(archive.read("_meta"))
        return [(names[m], archive.read(m)) for m in archive.namelist() if m != "_meta"]


class Official:
    """The referee. Each user has a connection."""

    def __init__(self, server):
        self._server = server
        self._wires = {}

    def new_user(self):
        """A user who never synced."""
        user = self._server.next_user()
        self._wires[user.name] = Wire(self._server.port)
        self._wires[user.name].login(user.name, user.password)
        return user.name

    def request(self, user, method, payload):
        """Status and decoded answer."""
        answer = self._wires[user].call(method, payload)
        if not answer.ok:
            return answer.status, None
        if method == "downloadFiles":
            return answer.status, unzipped(answer.body)
        message = answer.json
        assert message.pop("err") == ""
        return answer.status, message["data"]

    def close(self):
        for wire in self._wires.values():
            wire.connection.close()


@pytest.fixture(scope="session")
def official(official_server):
    found = Official(official_server)
    yield found
    found.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stores(clock):
    """Heads and objects; a module may have its tests run on others."""
    return MemoryHeadStore(), MemoryObjectStore(clock)


@pytest.fixture
def make_worker(tmp_path, clock, stores):
    """Makes workers that share one store; further ones after a crash, or beside the first."""
    heads, objects = stores
    numbers = itertools.count()

    with contextlib.ExitStack() as opened:

        def make(*, objects=objects, limit_bytes=300 << 20):
            folder = tmp_path / f"worker{next(numbers)}"
            worker = Worker(folder, heads, objects, lambda: f"{next(numbers):08x}", clock, limit_bytes)
            opened.callback(worker.store.close)
            return worker

        yield make


@pytest.fixture
def worker(make_worker):
    return make_worker()


@pytest.fixture(scope="session")
def make_zip():
    return build_zip


def build_zip(*changes, meta=None, method=zipfile.ZIP_STORED):
    """The zip a client uploads: (name, content) pairs, None for a removed file."""
    out = io.BytesIO()
    entries = []
    with zipfile.ZipFile(out, "w", method) as archive:
        for number, (name, content) in enumerate(changes):
            if content is None:
                entries.append([name, None])
            else:
                archive.writestr(str(number), content)
                entries.append([name, str(number)])
        archive.writestr("_meta", msgspec.json.encode(entries) if meta is None else meta)
    return out.getvalue()
