"""The dashboard's expressions and the alert rules, read and run by Prometheus itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from app.ops.catalogue import ALERTS, METRICS
from tests.docker import debian
from tests.support import servers
from tests.support.wire import Wire

MONITORING = Path(__file__).parents[2] / "docker" / "monitoring"
RULES = MONITORING / "prometheus-rules.yaml"


def promtool(*words: object) -> subprocess.CompletedProcess[str]:
    program = debian.program("promtool", "usr/bin/promtool", "prometheus")
    return subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )


def test_prometheus_takes_the_rules() -> None:
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(expressions) >= len(METRICS)
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool("check", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


QUIET = {
    "ankisyncd_workers": "2x120",
    "ankisyncd_worker_starts_total": "2x120",
    'ankisyncd_ready{service="heads"}': "1x120",
    'ankisyncd_syncs_begun_total{kind="collection"}': "0+2x120",
    'ankisyncd_requests_total{method="meta",status="200"}': "0+2x120",
    'ankisyncd_requests_total{method="start",status="200"}': "0+1x120",
    'ankisyncd_requests_total{method="finish",status="200"}': "0+1x120",
    'ankisyncd_requests_total{method="upload",status="503"}': "0x120",
    'ankisyncd_requests_total{method="upload",status="500"}': "0x120",
    'ankisyncd_syncs_total{kind="collection",outcome="done",reason=""}': "0+1x120",
    'ankisyncd_syncs_total{kind="collection",outcome="sanity",reason="SanityCheckFailed"}': "0x120",
    'ankisyncd_store_errors_total{store="heads",operation="advance_head",error="HeadMoved"}': "0+5x120",
    'ankisyncd_store_errors_total{store="objects",operation="put",error="Unavailable"}': "0x120",
    'ankisyncd_store_errors_total{store="objects",operation="read",error="Corrupt"}': "0x120",
    'ankisyncd_aws_throttles_total{service="dynamodb",operation="UpdateItem"}': "0x120",
    'ankisyncd_logins_total{outcome="away"}': "0x120",
    'ankisyncd_request_seconds_bucket{method="meta",le="0.1"}': "0+2x120",
    'ankisyncd_request_seconds_bucket{method="meta",le="10"}': "0+2x120",
    'ankisyncd_request_seconds_bucket{method="meta",le="+Inf"}': "0+2x120",
    "ankisyncd_maintenance_timestamp_seconds": "0x120",
    "ankisyncd_verified_restore_timestamp_seconds": "0x120",
}
"""A server with users: two syncs a minute, half of which find nothing to do."""

OLD = str(-4 * 24 * 3600)
CAUSES = {
    "AnkisyncdDown": {"ankisyncd_workers": "2x5 _x115"},
    "AnkisyncdWorkersDie": {"ankisyncd_worker_starts_total": "2+1x120"},
    "AnkisyncdNotReady": {'ankisyncd_ready{service="heads"}': "0x120"},
    "AnkisyncdErrors": {'ankisyncd_requests_total{method="upload",status="500"}': "0+1x120"},
    "AnkisyncdFailingSyncs": {'ankisyncd_requests_total{method="upload",status="503"}': "0+1x120"},
    "AnkisyncdStalled": {'ankisyncd_syncs_total{kind="collection",outcome="done",reason=""}': "7x120"},
    "AnkisyncdCorrupt": {
        'ankisyncd_store_errors_total{store="objects",operation="read",error="Corrupt"}': "0+1x120"
    },
    "AnkisyncdStoreFaults": {
        'ankisyncd_store_errors_total{store="objects",operation="put",error="Unavailable"}': "0+1x120"
    },
    "AnkisyncdThrottled": {
        'ankisyncd_aws_throttles_total{service="dynamodb",operation="UpdateItem"}': "0+5x120"
    },
    "AnkisyncdSanityFailures": {
        'ankisyncd_syncs_total{kind="collection",outcome="sanity",reason="SanityCheckFailed"}': "0+1x120"
    },
    "AnkisyncdSlow": {
        'ankisyncd_request_seconds_bucket{method="meta",le="0.1"}': "0x120",
        'ankisyncd_request_seconds_bucket{method="meta",le="10"}': "0+2x120",
    },
    "AnkisyncdLoginsAway": {'ankisyncd_logins_total{outcome="away"}': "0+1x120"},
    "AnkisyncdMaintenanceMissed": {"ankisyncd_maintenance_timestamp_seconds": f"{OLD}x120"},
    "AnkisyncdRestoreUnverified": {"ankisyncd_verified_restore_timestamp_seconds": f"{OLD}x120"},
}


def fires(folder: Path, series: dict[str, str]) -> set[str]:
    """The alerts that fire within two hours of these series, one value a minute."""
    expected = [
        {"eval_time": "115m", "alertname": alert.name, "exp_alerts": [{"exp_labels": {"never": "so"}}]}
        for alert in ALERTS
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "1m", "input_series": inputs, "alert_rule_test": expected}
    path = folder / "test.yaml"
    path.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]})
    )
    done = promtool("test", "rules", path)
    said = done.stdout + done.stderr
    assert "exp:" in said, said  # it compared, and tells what it got instead
    blocks = said.split("alertname: ")[1:]
    assert len(blocks) == len(ALERTS), said
    return {
        block.partition(",")[0]
        for block in blocks
        if "got:[]" not in block.replace(" ", "").replace("\n", "")
    }


def test_no_alert_fires_on_a_server_that_works(tmp_path: Path) -> None:
    assert fires(tmp_path, QUIET) == set()


@pytest.mark.parametrize("name", [alert.name for alert in ALERTS])
def test_an_alert_fires_by_its_cause(tmp_path: Path, name: str) -> None:
    assert name in fires(tmp_path, QUIET | CAUSES[name])


def test_prometheus_scrapes_a_server(tmp_path: Path) -> None:
    program = debian.program("prometheus", "usr/bin/prometheus", "prometheus")
    port, front = servers.free_port(), servers.free_port()
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "ankisyncd", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
    }
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    command = [
        program, f"--config.file={tmp_path}/prometheus.yaml", f"--storage.tsdb.path={tmp_path}/tsdb",
        f"--web.listen-address=127.0.0.1:{front}",
    ]  # fmt: skip
    with servers.serving(servers.OURS, tmp_path / "data", 1, {"ANKISYNCD_METRICS_PORT": str(port)}) as server:
        user = server.next_user()
        with Wire(server.port) as wire:
            wire.login(user.name, user.password)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            found = await_value(front, 'ankisyncd_logins_total{outcome="ok"}')
        finally:
            os.kill(process.pid, signal.SIGTERM)
            process.wait(30)
    assert found == "1"


def await_value(front: int, query: str) -> str:
    end_s = time.monotonic() + 90
    while time.monotonic() < end_s:
        try:
            url = f"http://127.0.0.1:{front}/api/v1/query?query={quote(query)}"
            result = json.load(urllib.request.urlopen(url, timeout=10))["data"]["result"]
            if result:
                return result[0]["value"][1]
        except OSError:
            pass  # it starts
        time.sleep(0.2)
    raise AssertionError(f"{query} never came")
