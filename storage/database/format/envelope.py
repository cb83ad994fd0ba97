"""The envelope of small stored objects (journal bodies, history, maintenance state): it detects damage.

    magic (8 bytes) | format (1 byte) | content | SHA-256 of all before (32 bytes)

Used by `history`, `runs` and `sessions`.
"""

from __future__ import annotations

import hashlib

from storage.errors import Corrupt

FORMAT = 1
JOURNAL, HISTORY, RUN, FAILURE = b"ankijrnl", b"ankihist", b"ankirun.", b"ankifail"
CHECK = b"ankichck"
BACKUP, BACKUP_PART = b"ankibkup", b"ankibprt"


def seal(magic: bytes, content: bytes) -> bytes:
    """Wrap a content; `magic` says what it is."""
    body = magic + bytes([FORMAT]) + content
    return body + hashlib.sha256(body).digest()


def unseal(key: str, magic: bytes, sealed: bytes) -> bytes:
    """The content of an object. Raises: Corrupt if magic, format or SHA-256 is wrong."""
    body, digest = sealed[:-32], sealed[-32:]
    if len(sealed) < len(magic) + 33 or hashlib.sha256(body).digest() != digest:
        raise Corrupt(key, "its own SHA-256", digest.hex())
    if body[: len(magic)] != magic or body[len(magic)] != FORMAT:
        raise Corrupt(key, f"format {FORMAT} of {magic!r}", body[:9])
    return body[len(magic) + 1 :]
