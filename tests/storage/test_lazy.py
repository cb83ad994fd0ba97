"""Modules that are imported by their first use."""

from __future__ import annotations

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
