"""What `make release` puts together, with images that are made elsewhere: test_image.py builds those."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from app.version import VERSION
from tests.docker.compose import ROOT

pytestmark = pytest.mark.slow
FAKE_IMAGE = '#!/bin/sh\nset -eu\necho "$*" >asked\nmkdir -p dist\necho image >"$4"\n'


@pytest.fixture
def clone(tmp_path) -> Path:
    """This commit, with a list of changes that has a section of the version."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no git checkout")
    if not (ROOT / ".venv-infra/bin/cyclonedx-py").exists():
        pytest.skip("cyclonedx-py is not here; `make test-infra` brings it")
    folder = tmp_path / "clone"
    git(ROOT, "clone", "-q", "--depth=1", f"file://{ROOT}", str(folder))
    for name in (
        "docker/release",
        "docker/chart",
        "docker/ankisyncd.service",
        "pyproject.toml",
        ".gitignore",
    ):
        source = ROOT / name  # as they are now, committed or not
        shutil.copytree(source, folder / name, dirs_exist_ok=True) if source.is_dir() else shutil.copy(
            source, folder / name
        )
    (folder / ".venv-infra").symlink_to(ROOT / ".venv-infra")
    (folder / "docker/image").write_text(FAKE_IMAGE)
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n## {VERSION} - 2026-12-01\n- A line.\n")
    with (folder / ".gitignore").open("a") as file:
        file.write("/asked\n/.venv-infra\n")
    commit(folder)
    return folder


def git(folder: Path, *words: str) -> str:
    name = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "protocol.file.allow=always"]
    return subprocess.run(
        ["git", *name, *words], cwd=folder, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "x")


def release(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [folder / "docker/release"], env=os.environ, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_release_is_whole_and_its_checksums_are_right(clone):
    done = release(clone)
    assert done.returncode == 0, done.stderr
    dist = clone / "dist"
    assert (clone / "asked").read_text() == f"amd64 arm64 -o dist/ankisyncd-{VERSION}-image.tar -s dist\n"
    sums = dict(line.split("  ")[::-1] for line in (dist / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {path.name for path in dist.iterdir()} - {"SHA256SUMS"}
    assert {
        f"ankisyncd-{VERSION}-image.tar", f"ankisyncd-{VERSION}.tar.gz", f"ankisyncd-chart-{VERSION}.tgz",
        f"ankisyncd-{VERSION}.sbom.json", "ankisyncd.service",
    } == set(sums)  # fmt: skip
    for name, digest in sums.items():
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest
    with tarfile.open(dist / f"ankisyncd-chart-{VERSION}.tgz") as tar:
        assert "ankisyncd/Chart.yaml" in tar.getnames()
    with tarfile.open(dist / f"ankisyncd-{VERSION}.tar.gz") as tar:
        assert f"ankisyncd-{VERSION}/docker/up" in tar.getnames()
    bill = json.loads((dist / f"ankisyncd-{VERSION}.sbom.json").read_text())
    assert {"anki", "flask"} <= {component["name"] for component in bill["components"]}
    assert bill["metadata"]["component"]["version"] == VERSION


def test_what_it_makes_depends_on_the_commit_alone(clone):
    assert release(clone).returncode == 0
    first = (clone / "dist/SHA256SUMS").read_text()
    assert release(clone).returncode == 0
    assert (clone / "dist/SHA256SUMS").read_text() == first


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("CHANGELOG.md", "# Changelog\n\n## Unreleased\n", "has no section"),
        ("docker/chart/Chart.yaml", 'version: 9.9.9\nappVersion: "9.9.9"\n', "another version"),
    ],
)
def test_a_release_that_says_different_things_is_not_made(clone, path, text, complaint):
    (clone / path).write_text(text)
    assert "not committed" in release(clone).stderr
    commit(clone)
    done = release(clone)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert not (clone / "dist").exists()
