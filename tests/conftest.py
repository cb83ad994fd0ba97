"""Options and fixtures that several rooms of the tests share."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

INFRA = (Path(__file__).parent / "terraform", Path(__file__).parent / "docker")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With INFRA_STRICT=1 an infrastructure test that is skipped, as its program is missing, has failed."""
    report = yield
    strict = os.environ.get("INFRA_STRICT", "0") != "0"
    if strict and report.skipped and any(map(item.path.is_relative_to, INFRA)):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = (
            "failed",
            f"INFRA_STRICT is set, and this test was left out: {reason}",
        )
    return report


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
