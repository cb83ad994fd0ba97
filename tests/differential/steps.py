"""One request of a walk, and whoever puts it to a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import zstandard

from tests.support.wire import Answer, Wire, dump, path_of


@dataclass(frozen=True)
class Known:
    """Stands in a payload for what the server itself has told before."""

    name: str


@dataclass(frozen=True)
class Step:
    """A request; `form` is how it is wrapped, `payload` what is in it before it is packed."""

    method: str
    payload: Any = field(default_factory=dict)
    skey: str = ""
    form: str = "direct"
    hkey: str | None = None
    note: str = ""  # why it is in the walk, for the reader of a failure and the table of differences

    def __str__(self) -> str:
        payload = self.payload
        shown = (
            f"<{len(payload)} bytes>" if isinstance(payload, bytes) and len(payload) > 200 else repr(payload)
        )
        return f"{self.form} {self.method} s={self.skey!r} {self.note} {shown:.1500}"


class Runner:
    """Puts the steps of a walk to one server for one user."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.known: dict[str, Any] = {"usn": 0, "counts": [[0, 0, 0], 0, 0, 0, 0, 0, 0, 0], "media usn": 0}

    def put(self, step: Step) -> Answer:
        payload = self._resolve(step.payload)
        keep = self.wire.hkey
        self.wire.hkey = keep if step.hkey is None else step.hkey
        try:
            answer = self._send(step, payload)
        finally:
            self.wire.hkey = keep
        if answer.ok:
            self._learn(step.method, answer)
        return answer

    def _send(self, step: Step, payload: Any) -> Answer:
        match step.form:
            case "direct":
                return self.wire.call(step.method, payload, skey=step.skey)
            case "version":
                version = payload["version"]
                return self.wire.call(step.method, payload["body"], skey=step.skey, version=version)
            case "multipart":
                return self.wire.legacy(step.method, payload, skey=step.skey)
            case "multipart plain":
                return self.wire.legacy(step.method, payload, skey=step.skey, packed=False)
            case "form":
                fields = {k: v.replace(b"HKEY", self.wire.hkey.encode()) for k, v in payload.items()}
                return self.wire.form(step.method, fields)
            case "get":
                path = payload["path"].replace("HKEY", self.wire.hkey)
                return self.wire.send(path, {}, None, verb=payload.get("verb", "GET"))
            case "raw":
                return self._raw(step, payload)
        raise AssertionError(step.form)

    def _raw(self, step: Step, payload: Any) -> Answer:
        """Header and body exactly as given, for what is not well formed."""
        header = payload["header"].replace("HKEY", self.wire.hkey).replace("SKEY", step.skey)
        body = payload["body"]
        if payload.get("pack", True):
            body = zstandard.compress(dump(body))
        headers = {"anki-sync": header} if header else {}
        return self.wire.send(payload.get("path", path_of(step.method)), headers, body)

    def _resolve(self, thing: Any) -> Any:
        if isinstance(thing, Known):
            return self.known[thing.name]
        if isinstance(thing, dict):
            return {key: self._resolve(value) for key, value in thing.items()}
        if isinstance(thing, list):
            return [self._resolve(value) for value in thing]
        return thing

    def _learn(self, method: str, answer: Answer) -> None:
        if method == "meta":
            self.known["usn"] = answer.json["usn"]
        elif method == "sanityCheck2" and answer.json["s"]:
            self.known["counts"] = answer.json["s"]
        elif method == "uploadChanges":
            self.known["media usn"] = answer.json["data"][1]
