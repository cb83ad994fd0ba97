"""A clock to turn by hand, and the local parts put together as the server does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from app.auth.attempts import Limits, LocalCounts, LoginAttempts
from app.auth.authenticator import Authenticator
from app.auth.local.environment import EnvironmentUsers
from app.auth.local.hostkeys import LocalHostKeys
from app.auth.local.users import LocalUsers
from app.auth.local.usersfile import UsersFile
from app.auth.passwords import Passwords, verify_hash
from app.auth.users import UserDirectory
from storage.types import run_inline
from tests.support.clock import Clock


@dataclass
class LocalServer:
    """What one process has; `another_process` opens the same file anew."""

    path: Path
    clock: Clock
    environment: dict[str, str] = field(default_factory=dict)
    hashed: bool = False
    limits: Limits = field(default_factory=Limits)
    verify: Callable[[str, str], bool] = verify_hash

    def __post_init__(self) -> None:
        self.verified: list[str] = []
        self.file = UsersFile(self.path, run_inline)
        self.passwords = Passwords(run_inline, verify=self._verify)
        environment = EnvironmentUsers(self.environment.items(), hashed=self.hashed)
        self.users = LocalUsers(self.file, environment, self.passwords, self.clock)
        self.keys = LocalHostKeys(self.file)
        self.attempts = LoginAttempts(LocalCounts(self.file), self.clock, self.limits)
        self.door = self.make_door(self.users, self.file.revision)

    def make_door(self, directory: UserDirectory, revision: Callable[[], int] | None = None) -> Authenticator:
        """What the directory is asked beside a request is asked at once; waiting turns the clock."""
        return Authenticator(
            directory,
            self.keys,
            self.attempts,
            self.clock,
            revision,
            sleep=self.clock.pass_s,
            start_thread=lambda work: work(),
        )

    def another_process(self, environment: dict[str, str] | None = None) -> LocalServer:
        chosen = self.environment if environment is None else environment
        return LocalServer(self.path, self.clock, chosen, self.hashed, self.limits, self.verify)

    def login(self, name: str, password: str, address: str = "192.0.2.1") -> str:
        return self.door.login(name, password, address, "anki,26.9 (test)")

    def _verify(self, text: str, password: str) -> bool:
        self.verified.append(text)
        return self.verify(text, password)


@pytest.fixture(scope="module")
def mocked() -> Iterator[boto3.Session]:
    """AWS within this process, as moto plays it. A module shares it, as it is slow to start."""
    with mock_aws():
        yield boto3.Session("test", "test", region_name="eu-central-1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(tmp_path, clock) -> LocalServer:
    return LocalServer(tmp_path / "users.sqlite", clock)


@pytest.fixture
def make_server(tmp_path, clock):
    def make(**kwargs) -> LocalServer:
        return LocalServer(tmp_path / "users.sqlite", clock, **kwargs)

    return make
