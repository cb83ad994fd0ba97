"""The errors of the storage, by meaning; `app/http/errors.py` maps them to HTTP statuses.

StorageError
|-- NotFound                an object or record that must exist does not
|-- Conflict                another writer was first
|   |-- HeadMoved           the head is at another version, token or chain revision
|   `-- SessionLost         the session has ended, or another one has replaced it
|       `-- SessionAhead    the session is the caller's, but another worker has written to it
|-- Corrupt                 stored bytes are not what was written
|-- InvalidDatabase         a client's file is not a valid database
|-- TooLarge                more bytes than the limit allows
|-- NotDurable              a write is visible, but may be lost by a power cut: it must not be acknowledged
|-- DeletionUnsafe          deleting would rely on a clock or on an index that may be wrong
`-- Unavailable             a backend is not available; try again later

`storage.collection.errors` adds those of merging rows.
"""

from __future__ import annotations


class StorageError(Exception):
    """Base class of all errors that the storage raises deliberately."""


class NotFound(StorageError):
    """An object or record that must exist does not."""


class Conflict(StorageError):
    """The condition of a write did not hold: another writer was first."""


class HeadMoved(Conflict):
    """The head is not at the version, token or chain revision that the writer saw."""


class SessionLost(Conflict):
    """The session was finished, aborted, or replaced by a later `start`."""


class SessionAhead(SessionLost):
    """The session is still the caller's, but another worker has written to it since it was read."""


class Corrupt(StorageError):
    """Stored bytes differ from what was written; they must not be used."""

    def __init__(self, key: str, expected: object, found: object) -> None:
        super().__init__(f"{key}: expected {expected}, found {found}")
        self.key, self.expected, self.found = key, expected, found


class InvalidDatabase(StorageError):
    """A client's file is not a valid Anki collection; the text is for the log."""


class TooLarge(StorageError):
    """More bytes than the limit allows."""


class NotDurable(StorageError):
    """A write was made, and syncing it to the disk failed.

    It is visible to readers, but may be lost by a power cut, so it must not be reported as a success even
    if a later read shows it. The store that raises this accepts no more writes until the process is
    restarted.
    """


class DeletionUnsafe(StorageError):
    """Nothing was deleted: a clock or an index may be wrong, so needed objects could be lost."""


class Unavailable(StorageError):
    """A backend does not answer. A write may or may not have been applied; `retry_after_s` is a hint."""

    def __init__(self, message: str, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
