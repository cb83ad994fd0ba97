"""A test of the infrastructure whose program is missing is left out, or fails where that is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ONE = "tests/docker/test_image.py::test_a_compiler_is_not"


@pytest.mark.parametrize(("strict", "code", "said"), [("0", 0, "1 skipped"), ("1", 1, "INFRA_STRICT is set")])
def test_a_missing_program_fails_the_run_where_nothing_may_be_left_out(tmp_path, strict, code, said):
    environment = os.environ | {"PATH": str(tmp_path), "INFRA_STRICT": strict}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow", ONE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout
    assert said in done.stdout
