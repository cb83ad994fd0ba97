"""Modules that are imported by their first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

from storage.lazy import LazyModule


@pytest.fixture
def module(monkeypatch, tmp_path):
    (tmp_path / "heavy_module.py").write_text("import sys\nvalue = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield LazyModule("heavy_module")
    sys.modules.pop("heavy_module", None)


def test_a_module_is_imported_by_its_first_use(module):
    assert "heavy_module" not in sys.modules
    value = module.value
    assert sys.modules["heavy_module"].value is value
    assert module.value is value


def test_what_a_module_has_not_is_told_as_by_the_module(module):
    with pytest.raises(AttributeError, match="heavy_module"):
        _ = module.nothing


THREADS = """
from gevent import monkey
monkey.patch_all()
import sys
sys.path.insert(0, sys.argv[1])
from storage.lazy import LazyModule
from gevent.monkey import get_original

start, allocate_lock = get_original("_thread", ["start_new_thread", "allocate_lock"])
modules = [LazyModule("slow_module") for _ in range(8)]
ended = [allocate_lock() for _ in modules]

def use(module, end):
    module.value
    end.release()

for module, end in zip(modules, ended):
    end.acquire()
    start(use, (module, end))
print(all(end.acquire(timeout=10) for end in ended), flush=True)
sys.stdout.flush()
import os
os._exit(0)
"""


def test_threads_that_import_at_the_same_time_all_go_on_under_gevent(tmp_path):
    slow = "from gevent.monkey import get_original\nget_original('time', 'sleep')(0.3)\nvalue = 1\n"
    (tmp_path / "slow_module.py").write_text(slow)
    for _ in range(3):
        command = [sys.executable, "-c", THREADS, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.stdout == "True\n", done.stderr
