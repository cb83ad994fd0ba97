"""An engine for the backends that need one, and a witness of what is synced."""

import os

import pytest

from tests.support.engines import moto_bucket, moto_endpoint, moto_table, radosgw_bucket

__all__ = ["moto_bucket", "moto_endpoint", "moto_table", "radosgw_bucket"]


@pytest.fixture
def synced(monkeypatch):
    """How many files and folders were synced one by one."""
    seen = []
    real = os.fsync

    def fsync(number):
        seen.append(number)
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    return seen
