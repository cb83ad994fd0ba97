"""Engines for the tests below a folder: imported by the `conftest.py` of those that need one.

Each engine is started once in a run, however many folders import its fixture.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import pytest

from tests.support import aws
from tests.support.dynalite import dynalite
from tests.support.radosgw import radosgw

OTHER_ENGINE = (pytest.mark.slow, pytest.mark.engine)
"""Marks what runs on a second engine of one protocol, which has to be installed."""
_RUNNING = pytest.StashKey[dict[str, tuple[str, str]]]()


def _once(
    request: pytest.FixtureRequest,
    start: Callable[[], AbstractContextManager[str]],
    prepare: Callable[[str], str],
) -> tuple[str, str]:
    """The address of an engine, and of the bucket or table that was made in it for the run."""
    running = request.config.stash.setdefault(_RUNNING, {})
    name = f"{start.__name__} {prepare.__name__}"
    if name not in running:
        if start.__name__ not in running:
            stack = ExitStack()
            running[start.__name__] = (stack.enter_context(start()), "")
            request.config.add_cleanup(stack.close)
        endpoint = running[start.__name__][0]
        running[name] = (endpoint, prepare(endpoint))
    return running[name]


@pytest.fixture(scope="session")
def moto_endpoint(request: pytest.FixtureRequest) -> str:
    return _once(request, aws.moto, aws.new_bucket)[0]


@pytest.fixture(scope="session")
def moto_bucket(request: pytest.FixtureRequest) -> tuple[str, str]:
    return _once(request, aws.moto, aws.new_bucket)


@pytest.fixture(scope="session")
def moto_table(request: pytest.FixtureRequest) -> tuple[str, str]:
    return _once(request, aws.moto, aws.new_table)


@pytest.fixture(scope="session")
def dynalite_table(request: pytest.FixtureRequest) -> tuple[str, str]:
    return _once(request, dynalite, aws.new_table)


@pytest.fixture(scope="session")
def radosgw_bucket(request: pytest.FixtureRequest) -> tuple[str, str]:
    return _once(request, radosgw, _bucket_anywhere)


def _bucket_anywhere(endpoint: str) -> str:
    return aws.new_bucket(endpoint, region=None)
