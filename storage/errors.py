"""What can go wrong in the storage, by meaning. No HTTP status is known here.

StorageError
|-- NotFound                an object or record that must be there is not
|-- Conflict                somebody else was first
|   |-- HeadMoved           the head is at another version, token or chain revision
|   `-- SessionLost         the session was ended or taken over
|       `-- SessionAhead    the session is ours, but another worker is further in it
|-- Corrupt                 stored bytes are not what was written
|-- InvalidDatabase         bytes offered by a client are no sound database
|-- TooLarge                more bytes than the limit allows
|-- NotDurable              a write is visible, but may be lost by a power cut: it must not be acknowledged
|-- DeletionUnsafe          deleting would rest on a clock or on an index that may be wrong
`-- Unavailable             a backend is away; try again later
"""

from __future__ import annotations


class StorageError(Exception):
    """Root of all errors that the storage raises on purpose."""


class NotFound(StorageError):
    """An object or record that must exist does not."""


class Conflict(StorageError):
    """The condition of a write did not hold: another writer was first."""


class HeadMoved(Conflict):
    """The head is not at the version, token or chain revision that the writer saw."""


class SessionLost(Conflict):
    """The session was finished, aborted, or taken over by a later `start`."""


class SessionAhead(SessionLost):
    """The session is still ours, but its journal is longer than this worker knows."""


class Corrupt(StorageError):
    """Stored bytes differ from what was written: nothing may be built on them."""

    def __init__(self, key: str, expected: object, found: object) -> None:
        super().__init__(f"{key}: expected {expected}, found {found}")
        self.key, self.expected, self.found = key, expected, found


class InvalidDatabase(StorageError):
    """A client's file is no sound Anki collection; the text says why, for the log."""


class TooLarge(StorageError):
    """More bytes than the limit allows."""


class NotDurable(StorageError):
    """A write was made, and the disk then failed to keep it.

    It is visible to readers and may be gone after a power cut. Never to be resolved into success; the
    store that raises it takes no further writes until the process is started again.
    """


class DeletionUnsafe(StorageError):
    """What would be deleted cannot be told from what is needed: a clock or an index may be wrong."""


class Unavailable(StorageError):
    """A backend does not answer. Nothing is known to be lost; `retry_after_s` is a hint."""

    def __init__(self, message: str, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
