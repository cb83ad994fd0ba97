"""Reads /metrics and /ready as Prometheus and an operator would."""

from __future__ import annotations

import http.client
import json
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, ...], float]


def get(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def parse(text: bytes) -> Samples:
    """(name, label=value, ...) in the order of the labels' names -> value."""
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def scrape(port: int) -> Samples:
    status, body = get(port, "/metrics")
    assert status == 200, body
    return parse(body)


def moved(before: Samples, after: Samples) -> Samples:
    """What has changed, but for times and buckets."""
    changed = {key: value - before.get(key, 0.0) for key, value in after.items() if before.get(key) != value}
    return {key: value for key, value in changed.items() if not key[0].endswith(("_sum", "_bucket"))}


def ready(port: int) -> tuple[int, Any]:
    status, body = get(port, "/ready")
    return status, json.loads(body)
