"""The error of merging, besides those of `storage.errors`.

StorageError
`-- InvalidChange           a client's rows cannot be merged; its sync ends with 400
"""

from __future__ import annotations

from storage.errors import StorageError


class InvalidChange(StorageError):
    """Rows from a client cannot be merged into this collection; the text is for the log."""
