"""What a commit id tells of the commit."""

from __future__ import annotations

import pytest

from app.sync.session import commit_id
from storage.database.origin import Kind, Origin, device_of, name_commit, read_origin

DEVICE = device_of(bytes(range(32)))


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("device", [DEVICE, "", "ffffffffffff", "000000000000"])
def test_kind_and_device_are_read_as_they_were_written(kind, device):
    name = name_commit(kind, "unique", device)
    assert len(name) == 16
    assert name.isascii()
    assert read_origin(name) == Origin(kind, device)


def test_each_commit_has_a_name_of_its_own_and_a_repeated_one_the_same():
    names = {name_commit(Kind.SYNC, str(number), DEVICE) for number in range(10_000)}
    assert len(names) == 10_000
    assert (
        commit_id("session", 1, DEVICE) == commit_id("session", 1, DEVICE) != commit_id("session", 2, DEVICE)
    )


@pytest.mark.parametrize(
    "old", ["e52e6ce1e9796870", "d" * 16, "commit-1", "", "session-12", "S", "S" + "." * 15]
)
def test_ids_of_before_tell_nothing(old):
    found = read_origin(old)
    assert found is None or not found.device
