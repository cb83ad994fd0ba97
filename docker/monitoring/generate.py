"""Writes dashboard, alert rules and the tables of README.md from `app/ops/catalogue.py`.

python docker/monitoring/generate.py           # `make monitoring`
python docker/monitoring/generate.py --check   # whether they are as the list has it
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from app.ops.catalogue import ALERTS, CLOUDWATCH, METRICS, RECORDED, Kind, Metric  # noqa: E402

BEGIN, END = "<!-- tables: made by generate.py -->\n", "<!-- end of tables -->"
WIDTH, HEIGHT, COLUMNS = 8, 8, 3
SOURCE = {"type": "prometheus", "uid": "${source}"}
SELECTED = '{instance=~"$instance"}'


def queries(metric: Metric) -> Iterator[tuple[str, str]]:
    """Expressions of a metric's panel, and their legends."""
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    by = f" by ({', '.join(metric.labels)})" if metric.labels else ""
    name = metric.name + SELECTED
    if metric.kind is Kind.HISTOGRAM:
        of = ", ".join(("le", *metric.labels))
        rate = f"sum by ({of}) (rate({metric.name}_bucket{SELECTED}[$__rate_interval]))"
        for quantile in ("0.5", "0.95"):
            yield f"histogram_quantile({quantile}, {rate})", f"{quantile} {legend}".strip()
    elif metric.kind is Kind.COUNTER:
        yield f"sum{by} (rate({name}[$__rate_interval]))", legend or "per second"
    elif metric.name.endswith("_timestamp_seconds"):
        yield f"max{by} ({name}) * 1000", legend or "time"
    elif metric.mode == "livemin":
        yield f"min{by} ({name})", legend
    else:
        yield f"sum{by} ({name})", legend or metric.name.removeprefix("ankisyncd_")


def panel(metric: Metric, number: int, x: int, y: int) -> dict[str, Any]:
    """One panel of Grafana."""
    unit = "Bps" if metric.kind is Kind.COUNTER and metric.unit == "bytes" else metric.unit
    return {
        "id": number,
        "type": "stat" if metric.unit == "dateTimeAsIso" else "timeseries",
        "title": title(metric),
        "description": metric.help,
        "datasource": SOURCE,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(queries(metric))
        ],
    }


def title(metric: Metric) -> str:
    """The name in words; of a counter, that it is a rate."""
    words = metric.name.removeprefix("ankisyncd_").removesuffix("_total").removesuffix("_timestamp_seconds")
    words = words.replace("_", " ").capitalize()
    return f"{words} per second" if metric.kind is Kind.COUNTER else words


def dashboard() -> str:
    """The dashboard, to be imported into Grafana."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, metrics in groupby(METRICS, key=lambda metric: metric.row):
        position = {"h": 1, "w": 24, "x": 0, "y": y}
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row,
                "gridPos": position,
                "collapsed": False,
                "panels": [],
            }
        )
        y += 1
        for index, metric in enumerate(metrics):
            x = index % COLUMNS
            if index and x == 0:
                y += HEIGHT
            panels.append(panel(metric, len(panels) + 1, x * WIDTH, y))
        y += HEIGHT
    chosen = {"includeAll": True, "multi": True, "refresh": 2, "current": {"text": "All", "value": "$__all"}}
    query = f"label_values({METRICS[0].name}, instance)"
    made = {
        "title": "ankisyncd",
        "uid": "ankisyncd",
        "tags": ["ankisyncd"],
        "schemaVersion": 39,
        "editable": True,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [
                {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"},
                {"name": "instance", "label": "Server", "type": "query", "datasource": SOURCE,
                 "query": {"query": query, "refId": "servers"}, "definition": query, **chosen},
            ]
        },
        "panels": panels,
    }  # fmt: skip
    return json.dumps(made, indent=2) + "\n"


def rules() -> str:
    """The rules of Prometheus; strings are written as JSON has them, which is YAML too."""
    lines = [
        "# Made by generate.py from app/ops/catalogue.py.",
        "groups:",
        "  - name: ankisyncd",
        "    rules:",
    ]
    for name, expression in RECORDED.items():
        lines += [f"      - record: {name}", f"        expr: {json.dumps(expression)}"]
    for alert in ALERTS:
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.expression)}",
            f"        for: {alert.for_}",
            "        labels:",
            f"          severity: {alert.severity}",
            "        annotations:",
            f"          summary: {json.dumps(alert.summary)}",
            f"          description: {json.dumps(alert.action)}",
        ]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """A text as it stands in a cell of a table."""
    return text.replace("|", "\\|")


def tables() -> str:
    """The tables of README.md."""
    lines = ["### Metrics", "", "| name | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{metric.name}` | {metric.kind} | {', '.join(metric.labels)} | {cell(metric.help)} |"
        for metric in METRICS
    ]
    lines += ["", "Recorded by the rules:", ""]
    lines += [f"- `{name}`: `{expression}`" for name, expression in RECORDED.items()]
    lines += [
        "",
        "### Alerts",
        "",
        "| alert | severity | meaning | look first at |",
        "| --- | --- | --- | --- |",
    ]
    for alert in ALERTS:
        summary = re.sub(r"{{.*?}}", "A service", alert.summary)
        lines.append(f"| `{alert.name}` | {alert.severity} | {cell(summary)} | {cell(alert.action)} |")
    lines += ["", "### The same on CloudWatch", ""]
    lines += ["| CloudWatch, counted from the log | here |", "| --- | --- |"]
    lines += [f"| `{name}` | `{cell(expression)}` |" for name, expression in CLOUDWATCH.items()]
    return "\n".join(lines) + "\n"


def made() -> dict[Path, str]:
    """All files with their content."""
    readme = HERE / "README.md"
    text = readme.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return {
        HERE / "grafana-dashboard.json": dashboard(),
        HERE / "prometheus-rules.yaml": rules(),
        readme: f"{text[:begin]}\n{tables()}\n{text[end:]}",
    }


def main() -> None:
    """Write the files, or compare them."""
    stale = [path for path, text in made().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        sys.exit("\n".join(f"{path.name} is not current: run make monitoring" for path in stale) or 0)
    for path, text in made().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
