"""What the documents name is there: files, targets of make, and on the map every package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("app", "storage", "tests", "terraform", "docker")
DOCUMENTS = sorted(
    path for room in ("", *ROOMS) for path in (ROOT / room).glob("**/*.md" if room else "*.md")
)
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
FILE = re.compile(r"`((?:app|storage|tests|terraform)/[\w./-]+)")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")
TARGET = re.compile(r"`make ((?!-)[a-z-]+)")


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_files_that_a_document_names_exist(path):
    text = path.read_text()
    named = [ROOT / name for name in FILE.findall(text)] + [path.parent / name for name in LINK.findall(text)]
    assert [name for name in named if not name.exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_targets_that_a_document_names_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(TARGET.findall(path.read_text())) <= targets


def test_every_package_and_module_of_the_top_is_on_the_map():
    there = {
        f"{room}.{path.stem}"
        for room in ("app", "storage")
        for path in (ROOT / room).iterdir()
        if (path.suffix == ".py" or any(path.glob("*.py"))) and not path.stem.startswith("__")
    }
    named = set(re.findall(r"`((?:app|storage)\.\w+)`", (ROOT / "ARCHITECTURE.md").read_text()))
    assert there - named == set()
    assert named - there == set()
