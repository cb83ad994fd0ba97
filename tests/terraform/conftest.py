"""A Terraform that finds the stand-in provider and nothing else, and the plans the tests look at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from tests.conformance.device import Device, made_devices
from tests.support import aws
from tests.terraform.cloud import Cloud, make
from tests.terraform.tasks import ALICE

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "terraform"
EXAMPLES = tuple(sorted(folder.name for folder in (MODULE / "examples").iterdir()))
PYTHON = ROOT / ".venv-infra" / "bin" / "python"
"""Has what the stand-in needs: its protobuf is older than the one that Anki's package wants."""

PROVIDER = Path(__file__).parent / "stub_provider" / "provider.py"
VERSION = "6.25.0"
PLATFORM = "linux_arm64" if os.uname().machine == "aarch64" else "linux_amd64"
REGISTRY = "registry.terraform.io"  # part of a provider's name; nothing is fetched from it
MINIMAL = {
    "domain_name": "sync.example.com",
    "zone_id": "Z0123456789ABCDEFGHIJ",
    "region": "eu-central-1",
}


GIVEN = {"minimal": MINIMAL}
"""Variables of those examples that have some without a default."""


def missing(what: str) -> NoReturn:
    """Skip a test for want of a program, or fail it where INFRA_STRICT says that all must be there."""
    if os.environ.get("INFRA_STRICT"):
        pytest.fail(what)
    pytest.skip(what)


@dataclass(frozen=True)
class Terraform:
    """The program, in a copy of the module."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *words: str, at: str = ".", fine: tuple[int, ...] = (0,), **environment: str) -> str:
        done = subprocess.run(
            ["terraform", *words],
            cwd=self.folder / at,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode in fine, f"{words} gave {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def plan(self, at: str) -> dict:
        """The plan of an example as `terraform show -json` gives it; `apply` takes it."""
        self("plan", "-out=plan", *self.variables(at), at=f"examples/{at}")
        return json.loads(self("show", "-json", "plan", at=f"examples/{at}"))

    def copy_of(self, at: str) -> str:
        """A folder beside another one, with the same files and state."""
        folder = self.folder / f"{at}-{len(list((self.folder / at).parent.iterdir()))}"
        shutil.copytree(self.folder / at, folder, symlinks=True)
        return str(folder)

    @staticmethod
    def variables(example: str) -> list[str]:
        """The words that give an example what it asks for."""
        return [f"-var={name}={value}" for name, value in GIVEN.get(example, {}).items()]

    def apply(self, at: str) -> dict:
        """The state after the plan was applied."""
        self("apply", "plan", at=f"examples/{at}")
        return json.loads(self("show", "-json", at=f"examples/{at}"))


@pytest.fixture(scope="session")
def terraform(tmp_path_factory) -> Terraform:
    if shutil.which("terraform") is None:
        missing("terraform is not on this machine")
    if not PYTHON.exists():
        missing("the stand-in provider has no environment; `make test-infra` makes it")
    folder = tmp_path_factory.mktemp("terraform")
    shutil.copytree(MODULE, folder / "module", ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    plugin = (
        folder
        / "mirror"
        / REGISTRY
        / "hashicorp"
        / "aws"
        / VERSION
        / PLATFORM
        / f"terraform-provider-aws_v{VERSION}"
    )
    plugin.parent.mkdir(parents=True)
    plugin.write_text(f'#!/bin/sh\nexec "{PYTHON}" -W ignore "{PROVIDER}" "$@"\n')
    plugin.chmod(0o755)
    settings = folder / "terraformrc"
    settings.write_text(
        f'provider_installation {{\n  filesystem_mirror {{\n    path = "{folder / "mirror"}"\n  }}\n}}\n'
    )
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TF_CLI_CONFIG_FILE": str(settings),
        "TF_IN_AUTOMATION": "1",
        "TF_CLI_ARGS": "-no-color",
        "CHECKPOINT_DISABLE": "1",
    }
    program = Terraform(folder / "module", environment)
    program("init")
    for example in EXAMPLES:
        program("init", at=f"examples/{example}")
    return program


class StoredObject(dict[str, dict]):
    """What is made of each example, when it is first asked for."""

    def __init__(self, make: Callable[[str], dict]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, example: str) -> dict:
        self[example] = self._make(example)
        return self[example]


@pytest.fixture(scope="session")
def plans(terraform) -> dict[str, dict]:
    """The plan of each example, before anything of it was made."""
    return StoredObject(terraform.plan)


@pytest.fixture(scope="session")
def states(terraform, plans) -> dict[str, dict]:
    """The state of each example after its apply; its folder is left in that state."""

    def apply(example: str) -> dict:
        assert plans[example]
        return terraform.apply(example)

    return StoredObject(apply)


@pytest.fixture(scope="session")
def applied(states) -> dict:
    """The state of the minimal example."""
    return states["minimal"]


@pytest.fixture(scope="session")
def cloud(applied) -> Iterator[Cloud]:
    """moto with what the plan declares; every call needs a right of the task's role."""
    with aws.moto() as endpoint:
        yield make(applied, endpoint)


@pytest.fixture
def make_device(tmp_path) -> Iterator[Callable[[str], Device]]:
    with made_devices(tmp_path, ALICE) as make:
        yield make
