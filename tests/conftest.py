"""Options and fixtures that several rooms of the tests share."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support import servers

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


@pytest.fixture(scope="session")
def official_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """The official server, as referee. Each test takes users of its own by `next_user`."""
    users = servers.make_users(1000)
    folder = tmp_path_factory.mktemp("official") / "data"
    with servers.serving(servers.OFFICIAL, folder, users, servers.hashed(users)) as server:
        yield server
