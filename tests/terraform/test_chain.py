"""Times and paths that have to agree between the server, its image, compose and Terraform."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from app.cli import server

ROOT = Path(__file__).parents[2]


def number(file: str, pattern: str) -> int:
    found = re.findall(pattern, (ROOT / file).read_text(), re.M)
    assert found, f"{file} has no {pattern}"
    assert len(set(found)) == 1
    return int(found[0])


def test_whoever_stops_the_server_waits_longer_than_it_takes():
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    patience = int(compose["services"]["server"]["stop_grace_period"].removesuffix("s"))
    assert patience > server._STOP_S
    assert server._STOP_S < number("terraform/ecs.tf", r"stopTimeout = (\d+)") <= 120  # Fargate's most


def test_a_full_transfer_of_300_mb_at_20_mbit_s_ends_before_its_task_is_stopped():
    (default,) = re.findall(
        r'^variable "drain_seconds" \{.*?default += (\d+)',
        (ROOT / "terraform/variables.tf").read_text(),
        re.M | re.S,
    )
    assert int(default) + server._STOP_S > 300 * 8 / 20


def test_the_server_keeps_idle_connections_longer_than_the_proxies_do():
    assert number("terraform/alb.tf", r"idle_timeout += (\d+)") < server._KEEPALIVE_S
    assert number("docker/nginx.conf", r"keepalive_timeout (\d+)s;") < server._KEEPALIVE_S


def test_the_scratch_disk_is_where_the_image_declares_its_volume():
    dockerfile = (ROOT / "docker/Dockerfile").read_text()
    (volume,) = re.findall(r"^VOLUME (\S+)$", dockerfile, re.M)
    ecs = (ROOT / "terraform/ecs.tf").read_text()
    assert f'containerPath = "{volume}"' in ecs
    assert re.search(rf'ANKISYNCD_CACHE_DIR += "{volume}/', ecs)


def test_all_run_the_same_user():
    dockerfile = (ROOT / "docker/Dockerfile").read_text()
    (user,) = re.findall(r"^USER (\S+)$", dockerfile, re.M)
    assert f'user                   = "{user}"' in (ROOT / "terraform/ecs.tf").read_text()
