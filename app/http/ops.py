"""`/ready` for everybody, and `/metrics` on a port of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import flask
import msgspec

from app.http.accesslog import entry_of
from app.http.response import Answer, StartResponse, WsgiApp, as_response

_JSON = ("Content-Type", "application/json")


class Fault(Protocol):
    """Why a service cannot be used: in a word, and in full."""

    @property
    def kind(self) -> str:
        """For everybody."""

    @property
    def reason(self) -> str:
        """For the operator."""


Look = Callable[[], Mapping[str, Fault | None]]
"""What is wrong with each service that the server needs."""


class Metrics(Protocol):
    """The metrics of all workers."""

    content_type: str

    def expose(self) -> bytes:
        """In Prometheus's text format."""


def _ready(look: Look, *, in_full: bool) -> Answer:
    """503 if anything is wrong. `{"ready": false, "services": {"heads": "ok", "objects": "Unavailable"}}`."""
    faults = look()
    told = {
        name: "ok" if fault is None else fault.reason if in_full else fault.kind
        for name, fault in faults.items()
    }
    is_ready = not any(faults.values())
    body = msgspec.json.encode({"ready": is_ready, "services": told})
    return Answer(body, (_JSON, ("Cache-Control", "no-store")), 200 if is_ready else 503)


def add_ready(app: flask.Flask, look: Look) -> None:
    """GET /ready, which asks the services: a load balancer should end no server by it."""

    def ready() -> flask.Response:
        entry_of(flask.request.environ).method = "ready"
        return as_response(_ready(look, in_full=False))

    app.add_url_rule("/ready", view_func=ready, methods=["GET"])


def with_private_port(inner: WsgiApp, port: int, metrics: Metrics, look: Look) -> WsgiApp:
    """The application; on the private port there is nothing but /metrics and /ready, with full reasons."""
    answers: dict[str, Callable[[], Answer]] = {
        "metrics": lambda: Answer(metrics.expose(), (("Content-Type", metrics.content_type),)),
        "ready": lambda: _ready(look, in_full=True),
        "health": Answer,
    }
    own = str(port)

    def enter(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["SERVER_PORT"] != own:
            return inner(environ, start_response)
        name = environ["PATH_INFO"].strip("/")
        answer = Answer(b"404", status=404)
        if environ["REQUEST_METHOD"] in {"GET", "HEAD"} and name in answers:
            entry_of(environ).method = name
            answer = answers[name]()
        start_response(answer.status_line, answer.all_headers())
        return (answer.body,) if isinstance(answer.body, bytes) else answer.body

    return enter
