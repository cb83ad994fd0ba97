"""The stores in a process that gevent has patched, as the workers are."""

from __future__ import annotations

import subprocess
import sys


def test_greenlets_share_the_stores(moto_bucket, tmp_path):
    command = [sys.executable, "-m", "tests.support.gevent_worker", *moto_bucket, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert (done.stdout, done.returncode) == ("True True\n", 0), done.stderr
