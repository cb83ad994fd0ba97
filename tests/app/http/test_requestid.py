"""One id in all lines of a request."""

from __future__ import annotations

import json

import pytest

from app.http.requestid import request_id
from tests.app.http.wire import Wire, head, header, packed, with_length
from tests.support import servers

TRACE = "Root=1-67891233-abcdef012345678912345678;Self=1-67891233-12456789abcdef012345678"


def ask(client: Wire, payload: object, *headers: str) -> int:
    """The status of a request; its line is in the log by then."""
    request = with_length("/sync/abort", packed(payload), f"anki-sync: {header()}", *headers)
    status = client.ask(request).status
    assert client.ask(head("/health", method="GET")).status == 200  # after the line of the one before
    return status


def lines_of(server: servers.Server, request: str) -> list[dict]:
    return [line for line in map(json.loads, server.log.splitlines()) if line.get("id") == request]


@pytest.mark.parametrize("name", ["X-Amzn-Trace-Id", "X-Request-Id"])
def test_the_id_of_the_proxy_is_in_the_line_and_in_the_traceback(
    server: servers.Server, client: Wire, name: str
) -> None:
    sent = f"{TRACE}/{name}"
    assert ask(client, {"fail": "bug"}, f"{name}: {sent}") == 500
    traceback, line = lines_of(server, sent)
    assert "a bug of ours" in traceback["traceback"]
    assert (line["event"], line["status"]) == ("request", 500)


def test_the_load_balancers_id_goes_before_the_other() -> None:
    assert request_id({"HTTP_X_REQUEST_ID": "theirs", "HTTP_X_AMZN_TRACE_ID": TRACE}) == TRACE


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "a\nb", 'a"b', "\xe9", "a,b"])
def test_an_id_that_could_disturb_the_log_is_replaced(sent: str) -> None:
    found = request_id({"HTTP_X_REQUEST_ID": sent})
    assert found != sent and len(found) == 16 and found.isalnum()


def test_requests_without_one_get_an_id_each(server: servers.Server, client: Wire) -> None:
    before = len(server.log.splitlines())
    assert [ask(client, {}) for _ in range(3)] == [200] * 3
    assert ask(client, {"fail": "bug"}) == 500
    lines = [json.loads(line) for line in server.log.splitlines()[before:]]
    requests = [line["id"] for line in lines if line["event"] == "request"]
    assert len(set(requests)) == len(requests) == 4
    assert [line["id"] for line in lines if "traceback" in line] == requests[-1:]


def test_what_is_refused_before_it_is_read_has_an_id_too(server: servers.Server) -> None:
    broken = Wire(server.port)
    assert broken.ask(head("/sync/meta", "content-length: x")).status == 400
    assert broken.is_closed_by_server()
    refused = json.loads(server.log.splitlines()[-1])
    assert refused["method"] == "-" and refused["id"]
    broken.close()
