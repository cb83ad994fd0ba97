"""What gunicorn's own process holds before it forks the workers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LOOK = """
import json, sys, threading
import app.cli.server
from app.cli.preload import load_modules
load_modules()
from gevent._hub_local import get_hub_if_exists
from gevent import monkey

found = {
    "modules": sorted(sys.modules),
    "threads": threading.active_count(),
    "has hub": get_hub_if_exists() is not None,
    "patched": [one for one in ("os", "select", "signal", "socket", "time") if monkey.is_module_patched(one)],
    "kept": [],
}
monkey.patch_all()
originals = {id(it): name for names in monkey.saved.values() for name, it in names.items() if callable(it)}
for name, module in list(sys.modules.items()):
    package = name.partition(".")[0]
    if package in sys.stdlib_module_names or package == "gevent" or package == "__main__":
        continue
    for attribute, it in vars(module).items():
        # a name that was imported, or a class made of one
        kinds = it.__mro__ if isinstance(it, type) and it.__module__ == name else [it]
        found["kept"] += [f"{name}.{attribute}" for kind in kinds if id(kind) in originals]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOOK], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_no_module_keeps_what_the_patches_of_the_worker_replace(found):
    """`from time import sleep` in a module that is loaded before the fork would hold the event loop."""
    assert [name for name in found["kept"] if not name.startswith("gunicorn.reloader.")] == []


def test_workers_share_what_every_one_needs(found):
    assert {"app.main", "flask", "apsw", "gevent.ssl", "storage.database.store"} <= set(found["modules"])


@pytest.mark.parametrize("package", ["anki", "numpy", "boto3", "botocore", "urllib3", "google.protobuf"])
def test_what_is_large_is_loaded_when_it_is_first_needed(found, package):
    assert [name for name in found["modules"] if name == package or name.startswith(f"{package}.")] == []


def test_threads_and_the_event_loop_are_the_workers_own(found):
    assert (found["threads"], found["has hub"]) == (1, False)


def test_the_process_that_forks_waits_and_takes_signals_as_ever(found):
    assert found["patched"] == []
