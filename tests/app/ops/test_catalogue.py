"""The list of metrics, and what is made from it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from app.ops import catalogue
from app.ops.catalogue import ALERTS, BY_NAME, CLOUDWATCH, METRICS, RECORDED, Kind

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "docker" / "monitoring"


def dashboard() -> dict:
    return json.loads((MONITORING / "grafana-dashboard.json").read_text())


def expressions() -> list[str]:
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    rules = yaml.safe_load((MONITORING / "prometheus-rules.yaml").read_text())["groups"][0]["rules"]
    return [*panels, *(rule["expr"] for rule in rules), *CLOUDWATCH.values()]


def test_dashboard_rules_and_tables_are_current() -> None:
    done = subprocess.run(
        [sys.executable, MONITORING / "generate.py", "--check"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_expressions_name_only_metrics_and_labels_that_there_are() -> None:
    for expression in expressions():
        names = re.findall(r"\b(ankisyncd_\w+)((?:\{[^}]*\})?)", expression)
        assert names, expression
        for name, selector in names:
            metric = BY_NAME.get(name) or BY_NAME[re.sub("_(bucket|sum|count)$", "", name)]
            assert (metric.kind is Kind.HISTOGRAM) == (metric.name != name) or name in CLOUDWATCH["meta-ms"]
            labels = re.findall(r'(\w+)(?:=~|!=|=)"', selector)
            assert set(labels) <= {*metric.labels, "instance"}, expression


def test_brackets_and_braces_of_expressions_are_closed() -> None:
    for expression in expressions():
        for opened, closed in ("()", "[]", "{}"):
            assert expression.count(opened) == expression.count(closed), expression


def test_the_dashboard_shows_every_metric_once() -> None:
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    assert [panel["description"] for panel in panels] == [metric.help for metric in METRICS]
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)


def test_every_metric_of_the_list_is_recorded_somewhere() -> None:
    constants = {value: name for name, value in vars(catalogue).items() if isinstance(value, str)}
    code = "".join(
        path.read_text() for path in (ROOT / "app" / "ops").glob("*.py") if path.stem != "catalogue"
    )
    for metric in METRICS:
        assert f"catalogue.{constants[metric.name]}" in code


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_conventions_of_prometheus(metric) -> None:
    assert (metric.kind is Kind.COUNTER) == metric.name.endswith("_total")
    assert (metric.kind is Kind.HISTOGRAM) == bool(metric.buckets)
    assert metric.kind is not Kind.HISTOGRAM or metric.name.endswith("_seconds")
    assert (metric.kind is Kind.GAUGE) == bool(metric.mode)
    assert list(metric.buckets) == sorted(metric.buckets)
    assert metric.help.endswith(".")


def test_alerts_can_be_told_apart_and_say_what_to_do() -> None:
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)
    assert all(alert.summary and alert.action.endswith(".") for alert in ALERTS)
    assert {alert.severity for alert in ALERTS} == {"critical", "warning"}
    assert all(re.fullmatch(r"\d+m", alert.for_) for alert in ALERTS)
    assert all(name.startswith("ankisyncd:") for name in RECORDED)


def test_the_metrics_of_cloudwatch_are_those_that_terraform_counts() -> None:
    text = (ROOT / "terraform" / "observability.tf").read_text()
    (block,) = re.findall(r"^  log_metrics = \{\n(.*?)^  \}", text, re.MULTILINE | re.DOTALL)
    counted = re.findall(r"^ +([\w-]+) += ", block, re.MULTILINE)
    assert set(CLOUDWATCH) == {*counted, "meta-ms"}
    assert '"meta-ms"' in text
