"""The official server as the oracle's referee: it is fed what was committed, one sync after another."""

from __future__ import annotations

import json
from typing import Any

from app.sync import messages
from tests.simulation.oracle import Attempt, Dump, dump_bytes
from tests.support.wire import Answer, Wire


class Referee:
    """One user of a running official server."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def replay(self, transcript: list[tuple[str, Any]]) -> Dump:
        """The collection that it makes of what was committed since the first upload."""
        uploads = [at for at, (kind, _) in enumerate(transcript) if kind == "replace"]
        for number, (kind, what) in enumerate(transcript[uploads[0] :]):
            if kind == "replace":
                self._accepted(self._wire.upload(what))
            elif kind == "raise usn":
                self._wire.download()
            else:
                self._sync(what, f"key{number}")
        return dump_bytes(self._wire.download())

    def _sync(self, attempt: Attempt, skey: str) -> None:
        start = {"minUsn": attempt.client_usn, "lnewer": attempt.client_is_newer}
        self._accepted(self._wire.call(messages.START, start, skey=skey))
        for method, body in attempt.messages:
            self._accepted(self._wire.call(method, body, skey=skey))
        self._accepted(self._wire.call(messages.FINISH, {}, skey=skey))

    @staticmethod
    def _accepted(answer: Answer) -> None:
        assert answer.ok, answer


def comparable(dump: Dump) -> Dump:
    """Without what depends on the time of day, and without the USN, which the last download has raised."""
    (col,) = dump["col"]
    id_, crt, _mod, scm, ver, dty, _usn, _ls, *rest = col
    config = []
    for key, usn, _mtime, value in dump["config"]:
        shown = json.loads(bytes(value))
        # Both have it from the day of their own clock.
        config.append((key, usn, shown if key != "lastUnburied" else "a day"))
    return dump | {"col": [(id_, crt, scm, ver, dty, *rest)], "config": sorted(config, key=repr)}
