"""Dates a collection that was brought back, so that every device has to choose a direction."""

from __future__ import annotations

from collections.abc import Mapping

import apsw

from storage.collection.rules import LATEST_TIME_MS
from storage.collection.stamps import Stamps, read_stamps


def force_one_way(connection: apsw.Connection, replaced: Mapping[str, int | bool], now_ms: int) -> Stamps:
    """Give an older state a schema time that no device knows; its stamps then, by real counts.

    `replaced` are the stamps of the state that it takes the place of. A device compares `mod` first
    and then `scm`, and merges only where `scm` is its own: with any other it asks its user for upload or
    download. The USN goes on from the higher one, so that no USN is given twice.
    Source: rslib/src/sync/collection/meta.rs of ankitects/anki (compared_to_remote).
    """
    mod, scm, usn = connection.execute("SELECT mod, scm, usn FROM col").get
    known = [mod, scm, int(replaced.get("mod", 0)), int(replaced.get("scm", 0))]
    # Later than whatever a device has, even if this machine's clock is behind those of others. What is no
    # time of a clock need not be passed, which it could not be at the end of 64 bits.
    stamp_ms = max(now_ms, *(stamp + 1 for stamp in known if stamp < LATEST_TIME_MS))
    connection.execute(
        "UPDATE col SET mod = ?1, scm = ?1, ls = ?1, usn = ?2",
        (stamp_ms, 1 + max(usn, int(replaced.get("usn", 0)))),
    )
    return read_stamps(connection)
