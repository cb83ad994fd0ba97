"""The methods of the media protocol, independent of HTTP: one call per request.

Called by `app.http.media`, which has authenticated the user and unpacked the request.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.errors import UnknownMethod
from app.media.begin import begin
from app.media.changes import media_changes
from app.media.download import Download, download_files
from app.media.gate import IndexGate
from app.media.messages import refusal
from app.media.sanity import media_sanity
from app.media.unzip import Batch, unpack
from app.media.upload import upload_changes
from storage.database.orders import Quota
from storage.media.blobs import Blobs
from storage.types import Offload, UserId


class MediaService:
    """Serves the media of all users.

    `scratch`: a folder for temporary files. `limit_bytes`: the largest total size of the files in an
    uploaded zip.
    """

    def __init__(  # noqa: PLR0913 - collaborators by name
        self,
        gate: IndexGate,
        blobs: Blobs,
        *,
        offload: Offload[Any],
        clock_ms: Callable[[], int],
        scratch: Path,
        limit_bytes: int,
        quota_of: Callable[[UserId], Quota] = lambda _user: Quota(),
    ) -> None:
        """`quota_of`: what a user may keep."""
        self._quota_of = quota_of
        self._gate = gate
        self._blobs = blobs
        self._offload = offload
        self._clock_ms = clock_ms
        self._scratch = scratch
        self._limit_bytes = limit_bytes

    def call(self, user: UserId, method: str, hkey: str, payload: bytes) -> bytes:
        """Answer `begin`, `mediaChanges` or `mediaSanity`, whose request and answer are JSON."""
        match method:
            case "begin":
                return begin(payload, hkey, self._gate.head(user))
            case "mediaChanges":
                return media_changes(payload, user, self._gate)
            case "mediaSanity":
                return media_sanity(payload, self._gate.head(user))
        raise UnknownMethod(f"{method} is none of begin, mediaChanges, mediaSanity")

    def refuse(self, text: str) -> bytes:
        """The answer to `begin` or `uploadChanges` that lets clients show a text, and do nothing else."""
        return refusal(text)

    def upload_changes(self, user: UserId, zipped: bytes | Path, device: str = "") -> bytes:
        """Answer `uploadChanges`, with a zip in memory or in a file, which the caller removes."""
        # Temporary files are removed in any case.
        with contextlib.closing(Batch(self._scratch)) as batch:
            self._offload(lambda: unpack(zipped, batch, self._limit_bytes))
            now_s = self._clock_ms() // 1000
            return upload_changes(
                batch, user, now_s, self._gate, self._blobs, device=device, quota=self._quota_of(user)
            )

    def download_files(self, user: UserId, payload: bytes) -> Download:
        """Answer `downloadFiles` with a zip of known size."""
        return download_files(payload, user, self._gate, self._blobs)
