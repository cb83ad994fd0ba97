"""Users of a pool are called by their ids, and by nothing that is none."""

from __future__ import annotations

import pytest

from app.auth.cloudusers import PoolUsers


def test_a_user_of_a_pool_is_called_by_its_id():
    found = PoolUsers().find("93f4b8a2-4041-70f2-5e5c-0a1b2c3d4e5f")
    assert found is not None
    assert found.id == found.name == "93f4b8a2-4041-70f2-5e5c-0a1b2c3d4e5f"


@pytest.mark.parametrize("name", ["", "a/b", "..", "alice@school.example", "x" * 129])
def test_what_is_no_id_is_nobody(name):
    assert PoolUsers().find(name) is None
