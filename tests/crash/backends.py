"""The head stores on which every store call is made to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from storage.heads.base import HeadStore
from storage.heads.local import LocalHeadStore
from storage.heads.memory import MemoryHeadStore
from storage.types import run_inline
from tests.support import aws

Open = Callable[[Path, pytest.FixtureRequest], HeadStore]
"""Opens a store for one run, in its folder; asks for what engine it needs."""


def memory_heads(root: Path, request: pytest.FixtureRequest) -> HeadStore:
    return MemoryHeadStore()


def local_heads(root: Path, request: pytest.FixtureRequest | None = None) -> HeadStore:
    root.mkdir(parents=True, exist_ok=True)
    return LocalHeadStore(root / "heads.db", run_inline)


def dynamo_heads(root: Path, request: pytest.FixtureRequest) -> HeadStore:
    return aws.dynamo_heads(*request.getfixturevalue("moto_table"))


def s3_heads(root: Path, request: pytest.FixtureRequest) -> HeadStore:
    return aws.s3_heads(*request.getfixturevalue("moto_bucket"), f"{root.name}/")


def backends(wired_step: int) -> list:
    """Parameters: what opens a store, and the step. Over a wire every call is tried in the slow run only."""
    return [
        pytest.param(memory_heads, 1, id="memory"),
        pytest.param(local_heads, 1, id="local"),
        *(
            pytest.param(heads, step, id=f"{name}{'' if step > 1 else '-every'}", marks=marks)
            for heads, name in ((dynamo_heads, "dynamodb"), (s3_heads, "s3"))
            for step, marks in ((wired_step, ()), (1, pytest.mark.slow))
        ),
    ]
