"""checkov on the files and on a plan: clean, but for exceptions that are still needed."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import yaml

from tests.terraform.conftest import EXAMPLES, MODULE, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CHECKOV = ROOT / ".venv-checkov" / "bin" / "checkov"
CONFIG = MODULE / ".checkov.yaml"


def failed(*words: str, exceptions: bool) -> set[str]:
    """The checks that fail."""
    if not CHECKOV.exists():
        pytest.skip("checkov is not here; `make test-infra` brings it")
    config = ["--config-file", str(CONFIG)] if exceptions else ["--skip-download"]
    done = subprocess.run(
        [CHECKOV, *words, *config, "-o", "json"], capture_output=True, text=True, timeout=200, check=False
    )
    reports = json.loads(done.stdout)
    reports = reports if isinstance(reports, list) else [reports]
    assert sum(report["summary"]["passed"] for report in reports if "summary" in report) > 50, done.stdout[
        :2000
    ]
    return {found["check_id"] for report in reports for found in report["results"]["failed_checks"]}


@pytest.fixture(scope="module")
def plan_files(plans, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("plans")
    for name in EXAMPLES:
        (folder / f"{name}.json").write_text(json.dumps(plans[name]))
    return {name: str(folder / f"{name}.json") for name in EXAMPLES}


def test_the_files_are_clean():
    assert failed("-d", str(MODULE), "--framework", "terraform", exceptions=True) == set()


@pytest.mark.parametrize("example", EXAMPLES)
def test_plans_are_clean(plan_files, example):
    assert failed("-f", plan_files[example], "--framework", "terraform_plan", exceptions=True) == set()


def test_every_exception_is_still_needed_and_has_its_reason(plan_files, tmp_path):
    # checkov reads the file of exceptions wherever it lies beside the module
    without = shutil.copytree(MODULE, tmp_path / "module", ignore=shutil.ignore_patterns(".*"))
    found = failed("-d", str(without), "--framework", "terraform", exceptions=False)
    for plan in plan_files.values():
        found |= failed("-f", plan, "--framework", "terraform_plan", exceptions=False)
    text = CONFIG.read_text()
    assert set(yaml.safe_load(text)["skip-check"]) == found
    lines = text.splitlines()
    first = lines.index("skip-check:") + 1
    assert lines[first].startswith("  # ")
