"""The metric filters of `terraform/observability.tf` on lines that a server has really written."""

from __future__ import annotations

import fnmatch
import io
import json
import logging
import re
import shlex
import subprocess
import sys

import flask
import pytest

from app.config import LogFormat
from app.http.accesslog import AccessLog, LineFormatter, LineHandler, entry_of
from app.http.errors import answer_errors
from storage.errors import Corrupt, Unavailable
from tests.support import servers
from tests.support.wire import Wire
from tests.terraform.conftest import MODULE


def patterns() -> dict[str, str]:
    """The patterns by metric, as HCL's quoted strings mean them."""
    (block,) = re.findall(
        r"^  log_metrics = \{\n(.*?)^  \}", (MODULE / "observability.tf").read_text(), re.M | re.S
    )
    return {
        name: json.loads(f'"{text}"')
        for name, text in re.findall(r'^ +([\w-]+) += "((?:[^"\\]|\\.)*)"', block, re.M)
    }


def counts(pattern: str, line: str) -> bool:
    """CloudWatch's filter language, as far as we use it.

    `{ $.field = value && ... }` matches JSON, with `*` in strings; quoted words match where all occur.
    """
    if not pattern.startswith("{"):
        return all(word in line for word in shlex.split(pattern))
    try:
        fields = json.loads(line)
    except ValueError:
        return False
    tests = pattern.removeprefix("{").removesuffix("}").split("&&")
    return all(_holds(test.strip(), fields) for test in tests)


def _holds(test: str, fields: dict) -> bool:
    name, operator, wanted = re.fullmatch(r'\$\.(\w+) (=|>=) ("[^"]*"|\d+)', test).groups()
    found = fields.get(name)
    if operator == ">=":
        return isinstance(found, int) and found >= int(wanted)
    if wanted.startswith('"'):
        return isinstance(found, str) and fnmatch.fnmatchcase(found, wanted.strip('"').replace("[", "[[]"))
    return found == int(wanted)


def counted(lines: list[str]) -> dict[str, int]:
    return {name: sum(counts(pattern, line) for line in lines) for name, pattern in patterns().items()}


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> list[str]:
    """Lines of a server that finished one sync, refused a login and a method of no sync."""
    folder = tmp_path_factory.mktemp("log") / "data"
    with servers.serving(servers.OURS, folder, 1, {"ANKISYNCD_LOG_FORMAT": "json"}) as server:
        user = server.next_user()
        with Wire(server.port, skey="a-session") as wire:
            wire.call("hostKey", {"u": user.name, "p": "wrong"})
            wire.login(user.name, user.password)
            wire.call("meta", {"v": 11, "cv": "tests"})
            wire.call("finish", {}, skey="never-begun")
            wire.call("start", {"minUsn": 0, "lnewer": False, "graves": None})
            wire.call("applyChanges", {"changes": {"models": [], "decks": [[], []], "tags": []}})
            while not wire.call("chunk", {}).json["done"]:
                pass
            wire.call("applyChunk", {"chunk": {"done": True}})
            check = wire.call("sanityCheck2", {"client": [[0, 0, 0], 0, 0, 0, 0, 6, 1, 1]})
            assert check.ok, check
            assert wire.call("finish", {}).ok
    return server.log.splitlines()


@pytest.fixture(scope="module")
def broken() -> list[str]:
    """Lines of the server's own error table when the storage is damaged, and when it is away."""
    out = io.BytesIO()
    formatter = LineFormatter(LogFormat.JSON)
    handler = LineHandler(formatter, out)
    log = logging.getLogger("ankisyncd")
    access = AccessLog(formatter, out, logging.INFO)
    app = flask.Flask(__name__)
    answer_errors(app)
    faults = {
        "corrupt": Corrupt("v1/a", 1, 2),
        "away": Unavailable("the bucket is away"),
        "bug": KeyError("x"),
    }

    @app.get("/<name>")
    def fail(name: str):
        raise faults[name]

    @app.after_request
    def note(answer):
        entry = entry_of(flask.request.environ)
        entry.status, entry.method = answer.status_code, "meta"
        access.write(entry)
        return answer

    log.addHandler(handler)
    try:
        for name in faults:
            app.test_client().get(f"/{name}")
    finally:
        log.removeHandler(handler)
    return out.getvalue().decode().splitlines()


def test_what_a_working_server_writes_is_counted_once_each(served):
    found = counted(served)
    expected = ("syncs-begun", "syncs-started", "syncs-finished", "sync-conflicts", "logins-refused")
    assert {name: number for name, number in found.items() if number} == dict.fromkeys(expected, 1)


def test_faults_are_counted_by_their_kind(broken):
    found = counted(broken)
    assert found["corrupt-storage"] == 1
    assert found["server-errors"] == 2
    assert found["failed-requests"] == 3
    assert found["backend-away"] == 1
    assert found["syncs-finished"] == 0


def test_the_nightly_task_is_counted(tmp_path):
    env = servers.environment([], tmp_path, 1, {})
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "maintain"],
        env=env, cwd=servers.REPOSITORY, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert counted(done.stdout.splitlines())["maintenance-done"] == 1


def test_the_time_of_a_syncs_first_request_is_a_number_in_its_line(served):
    """`meta-ms` takes `$.ms` of the lines that `syncs-begun` counts."""
    begun = [json.loads(line) for line in served if counts(patterns()["syncs-begun"], line)]
    assert begun and all(isinstance(line["ms"], float) for line in begun)
