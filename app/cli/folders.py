"""Whether the server could work in a folder: looked at when it starts, and by `ankisyncctl check`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

import apsw

_TRIAL_BYTES: Final = 256 * 1024
_OWN_NAMES: Final = (
    "users.sqlite*",
    "heads.sqlite*",
    "ahead",
    "ahead/*",
    "objects",
    "cache",
    "spool",
    "tmp",
    "metrics",
)
"""What the server keeps in its folders, and opens at the start."""


def use_folder(folder: Path) -> None:
    """Do with a folder what the workers will do: make files, write them to the disk, open those there are.

    What the server keeps in it is made readable by its owner alone.

    Raises: OSError; apsw.Error.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_TRIAL_BYTES))
        file.flush()
        os.fsync(file.fileno())
    with tempfile.TemporaryDirectory(dir=folder) as trial:
        connection = apsw.Connection(str(Path(trial, "trial.sqlite")))
        try:
            connection.pragma("journal_mode", "wal")
            connection.execute("CREATE TABLE trial (x)")
        finally:
            connection.close()
    for path in (path for pattern in _OWN_NAMES for path in folder.glob(pattern)):
        with contextlib.suppress(FileNotFoundError):  # another server on the same folder has removed it
            _use(path)


def _use(path: Path) -> None:
    with tempfile.TemporaryFile(dir=path) if path.is_dir() else path.open("r+b"):
        status = path.stat()
    if status.st_mode & 0o077 and status.st_uid == os.geteuid():
        path.chmod(0o700 if path.is_dir() else 0o600)
