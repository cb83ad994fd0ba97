"""The blueprint of /health: this process takes requests."""

from __future__ import annotations

from flask import Blueprint, Response, request

from app.http.accesslog import entry_of
from app.http.response import Answer, as_response
from app.version import HEADER, VERSION


def health_blueprint() -> Blueprint:
    """The route of /health; asks no backend, so that an outage elsewhere stops no worker."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/health")
    def health() -> Response:
        entry_of(request.environ).method = "health"
        return as_response(Answer(headers=((HEADER, VERSION),)))

    return blueprint
