"""Files that requests carry, on their way from the connection to a service: in memory, or on the disk."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import SessionConflict
from app.http.body import Room
from app.http.errors import LOGGER_NAME
from app.http.request import SyncRequest
from app.offload import ThreadPools
from storage.types import UserId

_HELD_BYTES = 64 * 1024 * 1024
"""What small files that are being uploaded may take of a process's memory; more of them go to the disk."""


class Files:
    """The files that the requests of one worker process carry. `folder` is for those on the disk."""

    def __init__(self, pools: ThreadPools, folder: Path) -> None:
        self._pools, self._folder = pools, folder
        self._room = Room(_HELD_BYTES)
        self._uploading: set[UserId] = set()

    @contextmanager
    def held(self, request: SyncRequest) -> Iterator[bytes | Path]:
        """The file that the request carries: its bytes if it is small, else as `spooled` gives it.

        Raises: ProtocolError; TooLarge.
        """
        with self._room.share(request.entry.user) as share:
            with self._pools.transfer(request.entry.user):
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
            with self._pools.transfer(request.entry.user):
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
        """Remove a temporary file. One that cannot be removed now is found by maintenance."""
        try:
            self._pools.run(lambda: path.unlink(missing_ok=True))
        except OSError as exc:
            logging.getLogger(LOGGER_NAME).warning("a temporary file cannot be removed: %s", exc)
