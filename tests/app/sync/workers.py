"""Workers of the sync service over shared stores, each with a folder of its own."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from app import errors
from app.sync.admission import Admitted
from app.sync.service import SyncService
from storage.collection.engine.codec import Codec
from storage.collection.schema import configure
from storage.database.limits import Limits
from storage.database.store import Commit
from storage.errors import Unavailable
from storage.heads.base import HeadStore
from storage.heads.memory import MemoryHeadStore
from storage.objects.memory import MemoryObjectStore
from storage.types import EMPTY_HEAD, DatabaseId, DatabaseKind, Offload, UserId, run_inline
from tests.app.sync.scripts import NOW_S, Base, Request, body_of, dump
from tests.support.clock import Clock
from tests.support.databases import make_store
from tests.support.faults import Faults

USER = UserId("u")
COLLECTION = DatabaseId(USER, DatabaseKind.COLLECTION)

STATUS = (
    (errors.UnsupportedVersion, 501),
    (errors.SessionConflict, 409),
    (errors.ProtocolError, 400),
    (Unavailable, 503),
)
"""As app.http has it."""


class World:
    """The stores that all workers share; the user has `base`, or nothing yet."""

    def __init__(
        self, folder: Path, codec: Codec, base: Base | None = None, heads: HeadStore | None = None
    ) -> None:
        self.folder = folder
        self.codec = codec
        self.clock = Clock(NOW_S * 1000)
        self.heads = heads or MemoryHeadStore()
        self.objects = MemoryObjectStore()
        self._numbers = itertools.count()
        self._workers: list[Worker] = []
        if base is not None:
            path = folder / self.nonce()
            shutil.copy(base.path, path)
            commit = Commit("base", b"", base.stamps["mod"], base.stamps, None)
            self.worker().store.replace(COLLECTION, EMPTY_HEAD, path, commit)

    def worker(
        self,
        faults: Faults | None = None,
        limits: Limits | None = None,
        offload: Offload[Any] = run_inline,
        collection_bytes: int = 300 << 20,
    ) -> Worker:
        """One more process, as it were."""
        worker = Worker(self, faults or Faults(), limits, offload, collection_bytes)
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        """Stop all workers."""
        for worker in self._workers:
            worker.store.close()

    def nonce(self) -> str:
        return f"n{next(self._numbers)}"

    def head(self):
        return self.heads.find(COLLECTION)

    def committed(self):
        """All rows of the user's collection as it is now."""
        store = self.worker().store
        checkout = store.checkout(COLLECTION, self.head())
        path = self.folder / self.nonce()
        with checkout.reader() as reader:
            path.write_bytes(b"".join(reader.blocks()))
        store.discard(checkout)
        return dump(path)


class Worker:
    """One SyncService; `post` answers as the server would."""

    def __init__(
        self,
        world: World,
        faults: Faults,
        limits: Limits | None,
        offload: Offload[Any],
        collection_bytes: int,
    ) -> None:
        self.faults = faults
        self.folder = world.folder / world.nonce()
        self.scratch = self.folder / "scratch"
        self.scratch.mkdir(parents=True)
        self.store = make_store(
            faults.heads(world.heads),
            faults.objects(world.objects),
            self.folder,
            world.clock,
            world.nonce,
            offload=offload,
            configure=configure,
            limits=limits or Limits(),
        )
        self.service = SyncService(
            self.store,
            world.codec,
            self.scratch,
            offload=offload,
            clock_ms=world.clock,
            nonce=world.nonce,
            limit_bytes=collection_bytes,
        )

    def post(self, method: str, payload: bytes, skey: str = "s1", user: UserId = USER) -> tuple[int, bytes]:
        """Status and body of a request."""
        try:
            return 200, self.service.call(Admitted(user), method, skey, 11, payload)
        except tuple(kind for kind, _ in STATUS) as exc:
            return next(status for kind, status in STATUS if isinstance(exc, kind)), b""

    def do(self, request: Request, skey: str = "s1") -> tuple[int, bytes]:
        """Status and body of a request out of a script."""
        method, message = request
        return self.post(method, body_of(message), skey)

    def ask(self, method: str, message: object = None, skey: str = "s1"):
        """The decoded answer of a request that succeeds."""
        status, answer = self.post(method, b"{}" if message is None else json.dumps(message).encode(), skey)
        assert status == 200, (method, status)
        return json.loads(answer)
