"""Gives files that were made for one download, without holding them in memory or the event loop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import flask

from app.errors import SessionConflict
from app.offload import ThreadPools
from storage.types import UserId

_BLOCK_BYTES: Final = 1 << 20


class FileGiver:
    """Makes and gives files, one at a time for each user of this process: making one is long work."""

    def __init__(self, pools: ThreadPools) -> None:
        self._pools = pools
        self._busy: set[UserId] = set()

    @contextmanager
    def at_work(self, user: UserId) -> Iterator[None]:
        """Work within the block goes to the threads of transfers.

        Raises: SessionConflict if such work for this user is going on.
        """
        if user in self._busy:
            raise SessionConflict("another file of this user is being worked on")
        self._busy.add(user)
        try:
            with self._pools.transfer(user):
                yield
        finally:
            self._busy.discard(user)

    def give(self, user: UserId, path: Path, name: str) -> flask.Response:
        """A response with the file; it may be removed once this returns."""
        file = path.open("rb")
        response = flask.Response(self._blocks(user, file), mimetype="application/octet-stream")
        response.content_length = os.fstat(file.fileno()).st_size
        response.headers.set("Content-Disposition", "attachment", filename=name)
        response.call_on_close(file.close)
        return response

    def _blocks(self, user: UserId, file: BinaryIO) -> Iterator[bytes]:
        with self._pools.transfer(user):
            while block := self._pools.run(partial(file.read, _BLOCK_BYTES)):
                yield block
