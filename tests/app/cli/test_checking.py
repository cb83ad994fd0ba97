"""`check`, `config check` and `user check`, on one machine and on AWS, and the audit lines of changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.cli.admin import cli
from app.cli.checking import _default
from app.cli.context import Admin as Context
from app.config import Settings, Source
from app.oldnames import OLD_NAMES
from tests.support import aws, servers
from tests.support.cluster import Place, cloud, control
from tests.support.userpool import PASSWORD, UserPool

ADDRESS = "192.0.2.1"


class Admin:
    def __init__(self, root: Path) -> None:
        self.root = root / "data"
        self.env = {"ANKISYNCD_DATA_ROOT": str(self.root), "SYNC_USER1": "alice:secret"}

    def run(self, *arguments: str, stdin: str = "", code: int = 0):
        result = CliRunner().invoke(cli, arguments, input=stdin, env=self.env)
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str, stdin: str = "", code: int = 0):
        return json.loads(self.run(*arguments, "--json", stdin=stdin, code=code).stdout)

    def audit(self) -> list[dict[str, str]]:
        words = [line.split() for line in (self.root / "audit.log").read_text().splitlines()]
        return [dict(word.split("=", 1) for word in line if "=" in word) for line in words]


@pytest.fixture
def admin(tmp_path: Path) -> Admin:
    return Admin(tmp_path)


def check(admin: Admin, name: str, password: str, *more: str, code: int = 0):
    (row,) = admin.json("user", "check", name, "--password-stdin", *more, stdin=password, code=code)
    return row


class TestUserCheck:
    def test_right_wrong_and_unknown_are_told_apart(self, admin):
        admin.run("user", "add", "bob", "--password-stdin", stdin="hidden")
        assert check(admin, "alice", "secret")["result"] == "right"
        assert check(admin, "bob", "hidden")["result"] == "right"
        assert check(admin, "alice", "other", code=1)["result"] == "wrong"
        assert check(admin, "carol", "secret", code=1)["result"] == "unknown"

    def test_an_address_that_is_limited_is_told_and_looking_counts_nothing(self, admin):
        server = Context(Settings.from_env(admin.env)).accounts.authenticator
        for _ in range(30):
            check_alice(admin)
        assert server.login("alice", "secret", ADDRESS)
        for _ in range(10):
            with pytest.raises(Exception, match="wrong user name"):
                server.login("alice", "guess", ADDRESS)
        row = check(admin, "alice", "secret", "--address", ADDRESS, code=1)
        assert row["result"] == "limited"
        assert "try again in" in row["detail"]
        assert check(admin, "alice", "secret", "--address", "198.51.100.7")["result"] == "right"
        assert check(admin, "alice", "secret")["result"] == "right"

    def test_it_logs_no_device_in(self, admin):
        check(admin, "alice", "secret")
        assert admin.json("key", "list") == []


def check_alice(admin: Admin) -> None:
    """With the server's own objects: thirty processes of the command would take a minute."""
    Context(Settings.from_env(admin.env)).accounts.authenticator.try_login("alice", "secret", ADDRESS)


class TestCheck:
    def test_everything_that_is_used_has_a_line(self, admin):
        rows = admin.json("check")
        assert [row["service"] for row in rows] == ["data folder", "head records", "users"]
        assert {row["state"] for row in rows} == {"ok"}
        assert admin.run("check").stdout.splitlines()[0] == "service\tplace\tstate\tdetail"

    def test_a_folder_that_cannot_be_used_is_a_fault(self, admin, tmp_path):
        (tmp_path / "data").write_text("not a folder")
        (row,) = admin.json("check", code=1)
        assert (row["service"], row["state"]) == ("data folder", "fault")

    def test_lost_head_records_are_a_fault(self, admin):
        admin.run("maintain")
        for path in admin.root.glob("heads.sqlite*"):
            path.unlink()
        rows = {row["service"]: row for row in admin.json("check", code=1)}
        assert "was lost or restored" in rows["head records"]["detail"]


class TestConfigCheck:
    def rows(self, admin, code=0):
        return {row["setting"]: row for row in admin.json("config", "check", code=code)}

    def test_each_setting_says_its_value_and_where_it_came_from(self, admin):
        admin.env |= {"SYNC_PORT": "8080", "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_ACCESS_KEY_ID": "id"}
        rows = self.rows(admin)
        assert rows["ANKISYNCD_PORT"] == {"setting": "ANKISYNCD_PORT", "value": "8080", "source": "SYNC_PORT"}
        assert rows["ANKISYNCD_HOST"] == {
            "setting": "ANKISYNCD_HOST",
            "value": "0.0.0.0",
            "source": "default",
        }
        assert rows["SYNC_USER1"]["value"] == "alice:********"
        assert rows["AWS_SECRET_ACCESS_KEY"]["value"] == "********"
        assert rows["AWS_ACCESS_KEY_ID"]["value"] == "id"

    def test_no_secret_is_shown(self, admin):
        admin.env |= {
            "COGNITO_USER_POOL_ID": "eu-central-1_AbCdEf",
            "COGNITO_CLIENT_ID": "client",
            "COGNITO_CLIENT_SECRET": "very-secret",
        }
        output = admin.run("config", "check").output
        assert "very-secret" not in output
        assert "alice:secret" not in output
        assert "eu-central-1_AbCdEf" in output

    def test_wrong_settings_are_shown_with_all_faults(self, admin):
        admin.env |= {"ANKISYNCD_PORT": "many", "SYNC_USER2": "no-colon"}
        result = admin.run("config", "check", code=2)
        assert "ANKISYNCD_PORT\tmany\tANKISYNCD_PORT" in result.stdout
        assert "ANKISYNCD_PORT must be a whole number" in result.stderr
        assert "SYNC_USER2 must be name:password" in result.stderr
        assert "no-colon" not in result.output

    @pytest.mark.parametrize("name", sorted(OLD_NAMES))
    def test_a_name_of_an_earlier_server_is_answered_with_what_replaced_it(self, admin, name):
        admin.env[name] = "value"
        assert f"{name} is not a setting; {OLD_NAMES[name]}" in admin.run("config", "check", code=2).stderr

    def test_an_old_value_is_answered_with_its_name_of_today(self, admin):
        admin.env |= {
            "COGNITO_USER_POOL_ID": "eu-central-1_AbCdEf",
            "COGNITO_CLIENT_ID": "client",
            "ANKISYNCD_COGNITO_FLOW": "ADMIN_NO_SRP_AUTH",
        }
        assert (
            "must be ADMIN_USER_PASSWORD_AUTH, as it is called now"
            in admin.run("config", "check", code=2).stderr
        )

    def test_what_is_shown_as_default_is_what_holds(self):
        """Where a setting is not set, its value is read from the field of that name."""
        sources: dict[str, Source] = {}
        settings = Settings.from_env({"HOME": "/root"}, sources)
        known = {name: _default(name, settings) for name in sources}
        assert known["ANKISYNCD_PORT"] == 27702
        assert known["MAX_SYNC_PAYLOAD_MEGS"] == 100
        assert known["ANKISYNCD_LOG_FORMAT"] == "text"


class TestAudit:
    def test_a_change_leaves_a_line_before_and_after_it(self, admin):
        admin.run("user", "add", "bob", "--password-stdin", stdin="hidden")
        (listed,) = [row for row in admin.json("user", "list") if row["name"] == "bob"]
        begun, done = admin.audit()
        assert (begun["outcome"], done["outcome"]) == ("begun", "done")
        assert done["name"] == "bob"
        assert done["user"] == listed["id"]
        assert done["by"]
        assert "hidden" not in (admin.root / "audit.log").read_text()
        assert (admin.root / "audit.log").stat().st_mode & 0o777 == 0o600

    def test_a_change_that_fails_and_one_that_is_given_up_say_so(self, admin):
        admin.run("user", "passwd", "nobody", "--password-stdin", stdin="x", code=1)
        admin.run("user", "add", "bob", "--password-stdin", stdin="x")
        admin.run("user", "remove", "bob", stdin="n\n", code=1)
        outcomes = [line["outcome"] for line in admin.audit()]
        assert outcomes == ["begun", "failed", "begun", "done", "begun", "declined"]

    def test_what_only_looks_leaves_none(self, admin):
        for words in (["user", "list"], ["key", "list"], ["status"], ["doctor"], ["check"]):
            admin.run(*words)
        assert not (admin.root / "audit.log").exists()

    def test_nothing_is_changed_if_the_line_cannot_be_written(self, admin):
        (admin.root / "audit.log").mkdir(parents=True)
        result = admin.run("user", "add", "bob", "--password-stdin", stdin="x", code=1)
        assert "audit line cannot be written" in result.stderr
        assert [row["name"] for row in admin.json("user", "list")] == ["alice"]


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with aws.moto() as endpoint:
        yield endpoint


@pytest.fixture(params=["dynamodb", "s3"])
def place(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    with cloud(tmp_path, engine, request.param) as found:
        yield found


class TestOnAws:
    def test_each_service_has_a_line(self, place, tmp_path):
        place.extra = UserPool(place.engine).settings
        done = control(place, tmp_path, "check", "--json")
        rows = json.loads(done.stdout)
        table = ["table"] if place.heads == "dynamodb" else []
        assert [row["service"] for row in rows] == [
            "cache folder", "bucket", *table, "user pool", "head records", "users",
        ]  # fmt: skip
        assert {row["state"] for row in rows} == {"ok"}, rows
        assert done.returncode == 0

    def test_what_is_missing_or_away_has_its_reason(self, place, tmp_path):
        place.name = "gone"
        place.extra = {"COGNITO_USER_POOL_ID": "eu-central-1_missing", "COGNITO_CLIENT_ID": "none"}
        done = control(place, tmp_path, "check", "--json")
        rows = {row["service"]: row for row in json.loads(done.stdout)}
        assert "there is no bucket 'bucket-gone'" in rows["bucket"]["detail"]
        assert rows["user pool"]["state"] == "fault"
        assert done.returncode == 1

    def test_a_login_of_a_pool_is_tried(self, place, tmp_path):
        pool = UserPool(place.engine)
        place.extra = pool.settings
        pool.add("dora")
        assert login(place, tmp_path, "dora", PASSWORD) == ("right", 0)
        assert login(place, tmp_path, "dora", "Wrong-Horse-2") == ("wrong", 1)
        assert login(place, tmp_path, "nobody", PASSWORD) == ("unknown", 1)

    def test_a_pool_that_is_away_is_exit_code_3(self, place, tmp_path):
        place.extra = {
            "COGNITO_USER_POOL_ID": "eu-central-1_Away00000",
            "COGNITO_CLIENT_ID": "none",
            "AWS_ENDPOINT_URL_COGNITO_IDENTITY_PROVIDER": f"http://127.0.0.1:{servers.free_port()}",
        }
        assert login(place, tmp_path, "dora", PASSWORD) == ("", 3)

    def test_audit_lines_go_to_standard_error(self, place, tmp_path):
        place.extra = {"ANKISYNCD_LOG_FORMAT": "json"}
        done = control(place, tmp_path, "key", "revoke", "--user", "nobody")
        assert done.returncode == 1
        begun, failed = (json.loads(line) for line in done.stderr.splitlines() if line.startswith("{"))
        assert (begun["action"], begun["outcome"], failed["outcome"]) == ("key revoke", "begun", "failed")
        assert failed["reason"] == "there is no user 'nobody'"


def login(place: Place, folder: Path, name: str, password: str) -> tuple[str, int]:
    env = servers.environment([], folder, 1, place.settings)
    words = ["user", "check", name, "--password-stdin", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        env=env | {"PATH": os.environ["PATH"]},
        cwd=servers.REPOSITORY,
        input=password,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return json.loads(done.stdout)[0]["result"] if done.stdout else "", done.returncode
