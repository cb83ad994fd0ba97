"""Objects in one tar archive, written once from front to back, or read.

For backups. An archive that was unpacked is a folder that `storage.objects.local` reads.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from storage.errors import Corrupt, NotFound, Unavailable
from storage.objects.base import ObjectStat
from storage.objects.fsync import sync_path
from storage.objects.keys import check_key, check_prefix, check_range

_FOLDER: Final = "objects/"
_PIECE_BYTES: Final = 1 << 20


class ArchiveWriter:
    """A new archive, which gets its name when it is whole and synced; it takes the place of an older one."""

    def __init__(self, path: Path) -> None:
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._stats: dict[str, ObjectStat] = {}
        try:
            self._file = self._part.open("wb")
        except OSError as exc:
            raise Unavailable(f"{path}: {exc.strerror}") from exc
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """What was put, by key."""
        return iter(sorted((s for k, s in self._stats.items() if k.startswith(prefix)), key=lambda s: s.key))

    def put(self, key: str, content: bytes | memoryview) -> None:
        """Add small content; a key that is there already is left alone."""
        self._add(key, io.BytesIO(content), len(content))

    def put_file(self, key: str, path: Path) -> None:
        """Add a file."""
        with path.open("rb") as file:
            self._add(key, file, path.stat().st_size)

    def _add(self, key: str, content: io.BufferedIOBase, size: int) -> None:
        check_key(key)
        if key in self._stats:
            return
        member = tarfile.TarInfo(_FOLDER + key)
        member.size, member.mtime, member.mode = size, int(time.time()), 0o600
        try:
            self._tar.addfile(member, content)
        except OSError as exc:
            raise Unavailable(f"{self._path}: {exc.strerror}") from exc
        self._stats[key] = ObjectStat(key, size, int(member.mtime) * 1000)

    def finish(self) -> None:
        """Give the archive its name."""
        try:
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._path)
            sync_path(self._path.parent)
        except OSError as exc:
            raise Unavailable(f"{self._path}: {exc.strerror}") from exc

    def discard(self) -> None:
        """Remove what was written, unless it is finished."""
        self._file.close()
        self._part.unlink(missing_ok=True)


class ArchiveReader:
    """The objects of an archive; the reading half of the port."""

    def __init__(self, path: Path) -> None:
        with ExitStack() as stack:
            try:
                self._tar = stack.enter_context(tarfile.TarFile(path))
                members = self._tar.getmembers()
            except OSError as exc:
                raise Unavailable(f"{path}: {exc.strerror or exc}") from exc
            except tarfile.TarError as exc:
                raise Corrupt(str(path), "a whole tar archive", str(exc)) from exc
            self.close = stack.pop_all().close
        self._members = {m.name.removeprefix(_FOLDER): m for m in members if m.isreg()}

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """As the port says."""
        check_range(start, length)
        with self._open(key) as file:
            file.seek(start)
            return file.read(-1 if length is None else length)

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """As the port says."""
        return [self.read(key) if key in self._members else None for key in keys]

    def stream(self, key: str) -> Iterator[bytes]:
        """As the port says."""
        file = self._open(key)

        def pieces() -> Iterator[bytes]:
            with file:
                while piece := file.read(_PIECE_BYTES):
                    yield piece

        return pieces()

    def find(self, key: str) -> ObjectStat | None:
        """As the port says."""
        member = self._members.get(key)
        return None if member is None else ObjectStat(key, member.size, int(member.mtime) * 1000)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """As the port says."""
        check_prefix(prefix)
        keys = sorted(key for key in self._members if key.startswith(prefix))
        return (stat for key in keys if (stat := self.find(key)) is not None)

    def _open(self, key: str) -> tarfile.ExFileObject | io.BufferedReader:
        member = self._members.get(key)
        file = self._tar.extractfile(member) if member is not None else None
        if file is None:
            raise NotFound(key)
        return file  # type: ignore[return-value]
