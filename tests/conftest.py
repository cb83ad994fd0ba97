"""Options and fixtures that several rooms of the tests share."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server",
        default=os.environ.get("TEST_SERVER", "ours"),
        choices=["ours", "official", "cloud", "cloud-random", "cloud-s3"],
        help="whom the conformance suite examines; `official` shows that the suite itself is right, "
        "`cloud` are three servers that take turns, request by request, `-random` ones that are drawn, "
        "`-s3` ones without a table",
    )


@pytest.fixture(scope="session")
def server_kind(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--server"))
