"""Forces a one-way sync of all devices after a version was restored, reset or brought in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import apsw

from storage.collection.rules import LATEST_TIME_MS
from storage.collection.schema import configure
from storage.collection.stamps import Stamps, read_stamps


def force_one_way(connection: apsw.Connection, replaced: Mapping[str, int | bool], now_ms: int) -> Stamps:
    """Set a schema time (`scm`) that no device has; returns the stamps of the result, from counted rows.

    `replaced` are the stamps of the version that this one replaces. A device first compares `mod`, then
    `scm`; if `scm` is not its own, it does not merge, but asks its user to upload or download. The USN
    becomes higher than both versions', so that none is used twice. Source:
    rslib/src/sync/collection/meta.rs of ankitects/anki (compared_to_remote).
    """
    mod, scm, usn = connection.execute("SELECT mod, scm, usn FROM col").get
    known = [mod, scm, int(replaced.get("mod", 0)), int(replaced.get("scm", 0))]
    # Later than the times in both versions, even if this machine's clock is behind. Values that are no
    # plausible time are ignored: adding 1 to the largest 64-bit integer would fail.
    stamp_ms = max(now_ms, *(stamp + 1 for stamp in known if stamp < LATEST_TIME_MS))
    connection.execute(
        "UPDATE col SET mod = ?1, scm = ?1, ls = ?1, usn = ?2",
        # `mod` and `scm` are later than on any device, so all of them ask for a direction.
        (stamp_ms, 1 + max(usn, int(replaced.get("usn", 0)))),
    )
    return read_stamps(connection)


def force_one_way_of(path: Path, replaced: Mapping[str, int | bool], now_ms: int) -> Stamps:
    """As `force_one_way`, for a file that nothing else has open; all of it is in the file afterwards."""
    with closing(apsw.Connection(str(path))) as connection:
        configure(connection)
        with connection:
            stamps = force_one_way(connection, replaced, now_ms)
        connection.pragma("wal_checkpoint(TRUNCATE)")
    return stamps
