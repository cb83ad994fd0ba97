"""What can go wrong in a collection beyond the faults of all storage.

StorageError
`-- InvalidChange           a client's rows cannot be merged; its sync is over
"""

from __future__ import annotations

from storage.errors import StorageError


class InvalidChange(StorageError):
    """The rows a client sent cannot be applied to this collection; the text says why."""
