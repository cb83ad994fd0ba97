"""The versions of the collection protocol: their dates, and what changed. Used by `meta` and `transfer`.

Source: rslib/src/sync/version.rs of ankitects/anki.
"""

from __future__ import annotations

SESSION_KEY = 8
"""2013. Session keys distinguish parallel syncs of one user. The last version of AnkiUniversal."""

V2_SCHEDULER = 9
"""January 2018. The same messages; the client supports the v2 scheduler."""

V2_TIMEZONE = 10
"""March 2020. The same messages; the client supports the new time zone handling."""

DIRECT_POST = 11
"""January 2023. zstd bodies with a header, instead of multipart forms with gzip; files of schema 18."""

OLDEST = SESSION_KEY
NEWEST = DIRECT_POST


def is_spoken(version: int) -> bool:
    """Whether a client of this version can sync here."""
    return OLDEST <= version <= NEWEST


def takes_current_schema(version: int) -> bool:
    """Whether a download may be a schema 18 file; older clients need schema 11."""
    return version >= DIRECT_POST
