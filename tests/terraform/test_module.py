"""The module and its examples, through the whole life of a service, against the stand-in provider."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.terraform.conftest import EXAMPLES, MODULE
from tests.terraform.plans import managed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_every_file_is_formatted(terraform):
    terraform("fmt", "-check", "-recursive")


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_valid(terraform, example):
    terraform("validate", at=f"examples/{example}")


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_second_plan_of_an_example_that_was_applied_changes_nothing(terraform, states, example):
    assert states[example]
    terraform(
        "plan", "-detailed-exitcode", *terraform.variables(example), at=f"examples/{example}"
    )  # 2 would be a change


def test_what_was_applied_can_be_destroyed(terraform, states):
    """On a copy, since the other tests look into the folder's state."""
    assert len(managed(states["complete"])) > 130
    folder = terraform.copy_of("examples/complete")
    terraform("destroy", "-auto-approve", at=folder)
    assert "values" not in json.loads(terraform("show", "-json", at=folder))


def test_every_switch_works(terraform):
    output = terraform("test", "-filter=tests/switches.tftest.hcl")
    passed = re.search(r"Success! (\d+) passed, 0 failed", output)
    assert passed and int(passed[1]) >= 13, output


def test_every_variable_refuses_nonsense(terraform, tmp_path):
    """In a folder that has the variables alone: without a provider to start, a run takes a moment."""
    shutil.copy(MODULE / "variables.tf", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(MODULE / "tests/variables.tftest.hcl", tmp_path / "tests")
    terraform("init", at=str(tmp_path))
    output = terraform("test", at=str(tmp_path))
    passed = re.search(r"Success! (\d+) passed, 0 failed", output)
    assert passed and int(passed[1]) >= 60, output


def test_every_variable_and_output_is_described_and_typed():
    for name in ("variables.tf", "outputs.tf"):
        blocks = re.findall(
            r'^(variable|output) "(\w+)" \{\n(.*?)^\}', (MODULE / name).read_text(), re.M | re.S
        )
        assert blocks
        for kind, variable, body in blocks:
            assert "description" in body, variable
            assert kind == "output" or re.search(r"^  type +=", body, re.M), variable


def test_every_variable_with_rules_has_a_case_that_breaks_them():
    text = (MODULE / "variables.tf").read_text()
    with_rules = {
        name
        for name, body in re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', text, re.M | re.S)
        if "validation {" in body
    }
    broken = set(
        re.findall(r"expect_failures = \[var\.(\w+)\]", (MODULE / "tests/variables.tftest.hcl").read_text())
    )
    assert with_rules == broken


@pytest.mark.parametrize(
    ("mistake", "complaint"),
    [
        ('resource "aws_s3_bucke" "x" {}', "Invalid resource type"),
        ('resource "aws_s3_bucket" "x" {\n  buckett = "x"\n}', "Unsupported argument"),
        ('resource "aws_iam_policy" "x" {}', "Missing required argument"),
        ('resource "aws_lb" "x" {\n  idle_timeout = "long"\n}', "Incorrect attribute value type"),
        ('resource "aws_dynamodb_table" "x" {\n  name = "x"\n  ttl {}\n  ttl {}\n}', "Too many ttl blocks"),
        ('output "x" {\n  value = aws_lb.y.dns\n}\nresource "aws_lb" "y" {}', "Unsupported attribute"),
    ],
)
def test_the_stand_in_refuses_what_the_schema_does_not_know(terraform, tmp_path, mistake, complaint):
    (tmp_path / "versions.tf").write_text((MODULE / "versions.tf").read_text())
    (tmp_path / "main.tf").write_text(mistake + "\n")
    terraform("init", at=str(tmp_path))
    answer = json.loads(terraform("validate", "-json", at=str(tmp_path), fine=(1,)))
    assert complaint in {found["summary"] for found in answer["diagnostics"]}


def test_the_readmes_tables_are_current():
    done = subprocess.run([sys.executable, MODULE / "docs.py", "--check"], timeout=30, check=False)
    assert done.returncode == 0, "run python3 terraform/docs.py"
