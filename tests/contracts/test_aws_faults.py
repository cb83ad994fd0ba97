"""Every call of the AWS backends under every fault, as `storage/FAULTS.md` tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

import storage
from tests.support import fault_table


@pytest.mark.slow
def test_the_table_of_calls_and_faults_is_what_happens(moto_endpoint):
    told = (Path(storage.__file__).parent / "FAULTS.md").read_text()
    assert fault_table.table(moto_endpoint) == told
