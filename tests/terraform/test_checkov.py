"""checkov on the files and on the plans: clean, but for exceptions that are still needed."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import yaml

from tests.terraform.conftest import EXAMPLES, MODULE, ROOT, missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CHECKOV = ROOT / ".venv-checkov" / "bin" / "checkov"
CONFIG = MODULE / ".checkov.yaml"


@pytest.fixture(scope="module")
def findings(plans, tmp_path_factory) -> dict[str, set[str]]:
    """Failed checks and where, without any exception, of the files and of all plans: checkov starts slowly."""
    if not CHECKOV.exists():
        missing("checkov is not here; `make test-infra` brings it")
    folder = tmp_path_factory.mktemp("checkov")
    # It reads the file of exceptions wherever that lies beside the module.
    module = shutil.copytree(MODULE, folder / "module", ignore=shutil.ignore_patterns(".*"))
    words = []
    for name in EXAMPLES:
        (folder / f"{name}.json").write_text(json.dumps(plans[name]))
        words += ["-f", str(folder / f"{name}.json")]
    found: dict[str, set[str]] = {}
    for run in (["-d", str(module), "--framework", "terraform"], [*words, "--framework", "terraform_plan"]):
        for check, place in failed(*run):
            found.setdefault(check, set()).add(place)
    return found


def failed(*words: str) -> list[tuple[str, str]]:
    done = subprocess.run(
        [CHECKOV, *words, "--skip-download", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    reports = json.loads(done.stdout)
    reports = reports if isinstance(reports, list) else [reports]
    assert sum(report["summary"]["passed"] for report in reports) > 200, done.stdout[:2000]
    return [
        (one["check_id"], f"{one['file_path']} {one['resource']}: {one['check_name']}")
        for report in reports
        for one in report["results"]["failed_checks"]
    ]


def test_files_and_plans_are_clean_but_for_the_exceptions(findings):
    excepted = yaml.safe_load(CONFIG.read_text())["skip-check"]
    assert {check: places for check, places in findings.items() if check not in excepted} == {}


def test_every_exception_is_still_needed_and_has_its_reason(findings):
    text = CONFIG.read_text()
    assert set(yaml.safe_load(text)["skip-check"]) <= set(findings)
    lines = text.splitlines()
    first = lines.index("skip-check:") + 1
    assert lines[first].startswith("  # ")
