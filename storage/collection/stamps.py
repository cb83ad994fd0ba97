"""The stamps of a collection: a summary in its head, so that `meta` need not open the database.

Shape: `{"mod", "scm"` (ms), `"usn", "cards", "notes", "revlog", "graves", "notetypes", "decks",
"deck_config"` (rows), `"unsynced"` (a row may have USN -1), `"newest"` (no row has a higher USN; missing
if that is not known), `"v2"` (scheduler 2 or later), `"timezone"` (the creation time zone is set)`}`.
"""

from __future__ import annotations

from collections.abc import Mapping

import apsw

from storage.collection.tables import config
from storage.collection.tally import COUNTED, Tally, find_newest, find_unsynced

Stamps = dict[str, int | bool]


def read_stamps(connection: apsw.Connection) -> Stamps:
    """All stamps, with counts from the tables."""
    tally = Tally(dict.fromkeys(COUNTED, 0) | {"unsynced": False})
    tally.recount(connection)
    tally.maybe_unsynced = find_unsynced(connection)
    tally.newest = find_newest(connection)
    return carried_stamps(connection, tally)


def carried_stamps(connection: apsw.Connection, tally: Tally) -> Stamps:
    """All stamps, with counts from the tally."""
    mod, scm, usn = connection.execute("SELECT mod, scm, usn FROM col").get
    newest = {} if tally.newest is None else {"newest": tally.newest}
    return {
        "mod": mod,
        "scm": scm,
        "usn": usn,
        **tally.counts,
        "unsynced": tally.maybe_unsynced,
        **newest,
        "v2": config.scheduler_version(connection) == config.SCHEDULER_V2,
        "timezone": config.find_integer(connection, "creationOffset", config.INT32) is not None,
    }


def has_news(stamps: Mapping[str, int | bool], client_usn: int) -> bool:
    """Whether any row may be new to a client that has all rows with a lower USN than `client_usn`."""
    return "newest" not in stamps or client_usn <= stamps["newest"]
