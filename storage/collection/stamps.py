"""The stamps of a collection: what its head keeps so that meta needs no database.

Shape: `{"mod", "scm"` (ms), `"usn", "cards", "notes", "revlog", "graves", "notetypes", "decks",
"deck_config"` (rows), `"unsynced"` (a row may have USN -1), `"v2"` (scheduler 2 or later),
`"timezone"` (the creation time zone is set)`}`.
"""

from __future__ import annotations

import apsw

from storage.collection import config
from storage.collection.tally import COUNTED, Tally, find_unsynced

Stamps = dict[str, int | bool]


def read_stamps(connection: apsw.Connection) -> Stamps:
    """All stamps, by real counts."""
    tally = Tally(dict.fromkeys(COUNTED, 0) | {"unsynced": False})
    tally.recount(connection)
    tally.maybe_unsynced = find_unsynced(connection)
    return carried_stamps(connection, tally)


def carried_stamps(connection: apsw.Connection, tally: Tally) -> Stamps:
    """All stamps, with counts from the tally."""
    mod, scm, usn = connection.execute("SELECT mod, scm, usn FROM col").get
    return {
        "mod": mod,
        "scm": scm,
        "usn": usn,
        **tally.counts,
        "unsynced": tally.maybe_unsynced,
        "v2": config.scheduler_version(connection) == config.SCHEDULER_V2,
        "timezone": config.find_integer(connection, "creationOffset", config.INT32) is not None,
    }
