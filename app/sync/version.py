"""The versions of the collection protocol: when each came, what it means, and who still sends it.

Source: rslib/src/sync/version.rs of ankitects/anki.
"""

from __future__ import annotations

SESSION_KEY = 8
"""2013. A session key tells parallel syncs of one user apart. AnkiUniversal stayed here."""

V2_SCHEDULER = 9
"""January 2018. Same messages; says that the client knows the v2 scheduler."""

V2_TIMEZONE = 10
"""March 2020. Same messages; says that the client knows the new time zone handling."""

DIRECT_POST = 11
"""January 2023. zstd bodies with a header in place of multipart forms with gzip; schema 18 files."""

OLDEST = SESSION_KEY
NEWEST = DIRECT_POST


def is_spoken(version: int) -> bool:
    """Whether a client of this version can sync here."""
    return OLDEST <= version <= NEWEST


def takes_current_schema(version: int) -> bool:
    """Whether a download may be a schema 18 file; older clients need schema 11."""
    return version >= DIRECT_POST
