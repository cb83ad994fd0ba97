"""Settings from an environment: defaults, both families of names, all faults at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cli.server import greeting
from app.config import AddressSource, CognitoFlow, Heads, LogFormat, LogLevel, Settings, SettingsError
from app.main import build_stores
from storage.media.index import GONE_KEPT_S
from storage.types import run_inline


def test_nothing_needs_to_be_set() -> None:
    settings = Settings.from_env({})
    assert (settings.host, settings.port, settings.workers) == ("0.0.0.0", 27702, None)
    assert settings.data_root == Path("~/.ankisyncd").expanduser()
    assert (settings.log_level, settings.log_format) == (LogLevel.INFO, LogFormat.TEXT)
    assert settings.fixed_users == ()
    assert settings.multipart_limit_bytes == 100 * 1024 * 1024
    assert settings.unpacked_limit_bytes == 300 * 1024 * 1024


def test_the_official_names_work() -> None:
    settings = Settings.from_env(
        {
            "SYNC_HOST": "127.0.0.1",
            "SYNC_PORT": "8080",
            "SYNC_BASE": "/srv/anki",
            "SYNC_USER1": "joe:a:b",
            "SYNC_USER2": "ann:x",
            "PASSWORDS_HASHED": "",
            "MAX_SYNC_PAYLOAD_MEGS": "7",
            "SYNC_IP_HEADER": "XRealIp",
        }
    )
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.data_root == Path("/srv/anki/ankisyncd")
    assert settings.official_base == Path("/srv/anki")
    assert [(user.name, user.password) for user in settings.fixed_users] == [("joe", "a:b"), ("ann", "x")]
    assert settings.passwords_hashed
    assert settings.payload_mib == 7
    assert settings.address_source is AddressSource.X_REAL_IP


def test_our_own_names_win() -> None:
    settings = Settings.from_env(
        {
            "SYNC_HOST": "a",
            "ANKISYNCD_HOST": "b",
            "SYNC_PORT": "1",
            "ANKISYNCD_PORT": "2",
            "SYNC_BASE": "/a",
            "ANKISYNCD_DATA_ROOT": "/b",
        }
    )
    assert (settings.host, settings.port, settings.data_root) == ("b", 2, Path("/b"))


def test_an_empty_value_counts_as_not_set() -> None:
    assert Settings.from_env({"ANKISYNCD_PORT": "", "SYNC_PORT": "5"}).port == 5


def test_choices_do_not_mind_case() -> None:
    settings = Settings.from_env({"ANKISYNCD_LOG_LEVEL": "Debug", "ANKISYNCD_LOG_FORMAT": "JSON"})
    assert (settings.log_level, settings.log_format) == (LogLevel.DEBUG, LogFormat.JSON)


def test_every_fault_is_named_in_one_message() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(
            {
                "ANKISYNCD_PORT": "99999",
                "ANKISYNCD_WORKERS": "many",
                "ANKISYNCD_LOG_LEVEL": "loud",
                "ANKISYNCD_BACKEND": "floppy",
                "ANKISYNCD_LOG_FROMAT": "json",
                "SYNC_USER1": "no-colon-secret",
                "SYNC_USER2": "joe:",
                "MAX_SYNC_PAYLOAD_MEGS": "0",
            }
        )
    message = str(caught.value)
    names = ("ANKISYNCD_PORT", "ANKISYNCD_WORKERS", "ANKISYNCD_LOG_LEVEL", "ANKISYNCD_BACKEND", "SYNC_USER1")
    assert all(name in message for name in (*names, "SYNC_USER2", "MAX_SYNC_PAYLOAD_MEGS"))
    assert "ANKISYNCD_LOG_FROMAT is not a setting; ANKISYNCD_LOG_FORMAT is" in message
    assert len(caught.value.faults) == 8
    assert "secret" not in message


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("ANKISYNCD_COGNITO_CLIENT_ID", "abc", "is not a setting; it is now COGNITO_CLIENT_ID"),
        ("ANKISYNCD_AUTH_DB_PATH", "/x", "is not a setting; users are in ANKISYNCD_DATA_ROOT"),
        (
            "ANKISYNCD_COGNITO_FLOW",
            "ADMIN_NO_SRP_AUTH",
            "must be ADMIN_USER_PASSWORD_AUTH, as it is called now",
        ),
    ],
)
def test_a_name_of_an_earlier_server_is_answered_with_what_replaced_it(name, value, hint):
    pool = {"COGNITO_USER_POOL_ID": "eu-central-1_AbC", "COGNITO_CLIENT_ID": "abc"}
    with pytest.raises(SettingsError, match=f"{name} {hint}"):
        Settings.from_env(pool | {name: value})


def test_a_user_named_twice_is_a_fault() -> None:
    with pytest.raises(SettingsError, match="second time"):
        Settings.from_env({"SYNC_USER1": "joe:a", "SYNC_USER2": "joe:b"})


def test_passwords_are_not_in_the_repr() -> None:
    assert "geheim" not in repr(Settings.from_env({"SYNC_USER1": "joe:geheim"}))


AWS = {
    "ANKISYNCD_BACKEND": "aws",
    "ANKISYNCD_S3_BUCKET": "a-bucket",
    "ANKISYNCD_DYNAMODB_TABLE": "a-table",
}
POOL = {
    "COGNITO_USER_POOL_ID": "eu-west-1_AbC123",
    "COGNITO_CLIENT_ID": "client",
    "COGNITO_CLIENT_SECRET": "geheim",
}


def faults_of(env: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(env)
    return caught.value.faults


def test_the_cloud_needs_a_bucket_and_a_table() -> None:
    cloud = Settings.from_env(AWS | {"ANKISYNCD_S3_PREFIX": "/some/prefix/"}).cloud
    assert cloud is not None
    assert (cloud.bucket, cloud.prefix, cloud.heads, cloud.table) == (
        "a-bucket", "some/prefix/", Heads.DYNAMODB, "a-table",
    )  # fmt: skip
    missing = faults_of({"ANKISYNCD_BACKEND": "aws"})
    assert [fault.split()[0] for fault in missing] == ["ANKISYNCD_S3_BUCKET", "ANKISYNCD_DYNAMODB_TABLE"]


def test_a_bucket_alone_will_do_where_heads_are_in_it() -> None:
    env = {"ANKISYNCD_BACKEND": "aws", "ANKISYNCD_S3_BUCKET": "a-bucket", "ANKISYNCD_HEADS": "s3"}
    cloud = Settings.from_env(env).cloud
    assert cloud is not None
    assert (cloud.prefix, cloud.heads, cloud.table) == ("", Heads.S3, "")
    assert "needs ANKISYNCD_HEADS=dynamodb" in faults_of(AWS | {"ANKISYNCD_HEADS": "s3"})[0]


def test_settings_that_would_do_nothing_are_faults() -> None:
    faults = faults_of(
        {"ANKISYNCD_S3_BUCKET": "a-bucket", "ANKISYNCD_HEADS": "s3", "ANKISYNCD_RECHECK_MINUTES": "1"}
    )
    assert len(faults) == 3
    assert all("needs ANKISYNCD_" in fault for fault in faults)


def test_what_the_cloud_cannot_be_called_is_a_fault() -> None:
    wrong = {
        "ANKISYNCD_S3_BUCKET": "No Bucket",
        "ANKISYNCD_S3_PREFIX": "a//b",
        "ANKISYNCD_DYNAMODB_TABLE": "?",
        "ANKISYNCD_CACHE_BYTES": "12",
        "ANKISYNCD_HISTORY_DAYS": "0",
        "COGNITO_USER_POOL_ID": "pool",
        "COGNITO_CLIENT_ID": "",
        "ANKISYNCD_COGNITO_FLOW": "SRP",
    }
    names = {fault.split()[0] for fault in faults_of(AWS | wrong)}
    assert names == set(wrong)


def test_a_pool_makes_cognito_the_directory() -> None:
    found = Settings.from_env(POOL).cognito
    assert found is not None
    assert (found.pool.pool_id, found.pool.client_id) == ("eu-west-1_AbC123", "client")
    assert (found.region, found.recheck_minutes, found.pool.flow) == ("eu-west-1", 5, CognitoFlow.ADMIN)
    assert "geheim" not in repr(Settings.from_env(POOL))
    assert Settings.from_env(POOL | {"ANKISYNCD_AUTH": "local"}).cognito is None
    assert len(faults_of({"ANKISYNCD_AUTH": "cognito"})) == 2


def test_the_cognito_settings_are_taken_over() -> None:
    chosen = {
        "COGNITO_REGION": "us-east-2",
        "ANKISYNCD_COGNITO_FLOW": "USER_PASSWORD_AUTH",
        "ANKISYNCD_RECHECK_MINUTES": "0",
    }
    found = Settings.from_env(POOL | chosen).cognito
    assert found is not None
    assert (found.region, found.recheck_minutes, found.pool.flow) == ("us-east-2", 0, CognitoFlow.USER)


def test_regions_come_from_either_of_the_usual_variables() -> None:
    assert Settings.from_env({"AWS_DEFAULT_REGION": "b"}).region == "b"
    assert Settings.from_env({"AWS_DEFAULT_REGION": "b", "AWS_REGION": "a"}).region == "a"


def test_local_copies_lie_in_the_data_folder_unless_told_otherwise() -> None:
    assert Settings.from_env({"ANKISYNCD_DATA_ROOT": "/a"}).cache_dir == Path("/a")
    settings = Settings.from_env({"ANKISYNCD_DATA_ROOT": "/a", "ANKISYNCD_CACHE_DIR": "/b"})
    assert (settings.cache_dir, settings.cache_bytes) == (Path("/b"), None)
    assert Settings.from_env({"ANKISYNCD_CACHE_BYTES": "100000000"}).cache_bytes == 100_000_000


@pytest.mark.parametrize(
    ("users", "fault"),
    [
        ({"SYNC_USER1": "a:b", "SYNC_USER3": "c:d"}, "SYNC_USER3 is not read: the next one is SYNC_USER2"),
        ({"SYNC_USER0": "a:b"}, "SYNC_USER0 is not read"),
        ({"SYNC_USER": "a:b"}, "SYNC_USER is not read"),
        ({"SYNC_USER01": "a:b"}, "SYNC_USER01 is not read"),
        ({"SYNC_USER1": "", "SYNC_USER2": "a:b"}, "SYNC_USER2 is not read: the next one is SYNC_USER1"),
        ({"SYNC_USER1": "joe:geheim "}, "SYNC_USER1 has blanks"),
        ({"SYNC_USER1": " joe:geheim"}, "SYNC_USER1 has blanks"),
        ({"SYNC_USER1": "joe:geh\ufeffeim"}, "SYNC_USER1 has an invisible character"),
        ({"SYNC_USER1": "joe:gehe\tim"}, "SYNC_USER1 has an invisible character"),
        ({"SYNC_USER1": "joe:geheim\udcff"}, "SYNC_USER1 is not UTF-8"),
        ({"SYNC_USER1": "j\udcffoe:geheim"}, "SYNC_USER1 is not UTF-8"),
    ],
)
def test_users_that_could_never_log_in_are_faults(users: dict[str, str], fault: str) -> None:
    (found,) = faults_of(users)
    assert found.startswith(fault)
    assert "geheim" not in found


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("ANKISYNCD_DATA_ROOT", "data", "must be a whole path"),
        ("ANKISYNCD_DATA_ROOT", "./data", "must be a whole path"),
        ("ANKISYNCD_DATA_ROOT", "$HOME/data", "must be a whole path"),
        ("ANKISYNCD_DATA_ROOT", "~no-such-user/data", "must be a whole path"),
        ("SYNC_BASE", "base", "must be a whole path"),
        ("ANKISYNCD_CACHE_DIR", "cache", "must be a whole path"),
        ("ANKISYNCD_CACHE_DIR", "/ca\udcffche", "is not UTF-8"),
    ],
)
def test_values_that_came_with_something_around_them_are_faults(name: str, value: str, fault: str) -> None:
    found = faults_of(POOL | {name: value})
    assert found[0].startswith(f"{name} {fault}")
    assert "geheim" not in "".join(found)


@pytest.mark.parametrize(
    "value", ["joe:pw\r", "joe:pw\r\n", "\ufeffjoe:pw", '"joe:pw"', "'joe:pw'\n", '"joe:pw\r"']
)
def test_line_ends_and_quotes_around_a_user_are_left_out_and_named(value: str) -> None:
    settings = Settings.from_env({"SYNC_USER1": value})
    assert [(user.name, user.password) for user in settings.fixed_users] == [("joe", "pw")]
    (note,) = settings.notes
    assert note.startswith("SYNC_USER1 ")
    assert note in greeting(settings)


def test_quotes_around_a_path_are_left_out_and_named() -> None:
    settings = Settings.from_env({"ANKISYNCD_DATA_ROOT": '"/data"', "ANKISYNCD_HOST": "'::1'"})
    assert (settings.data_root, settings.host) == (Path("/data"), "::1")
    assert sorted(note.split()[0] for note in settings.notes) == ["ANKISYNCD_DATA_ROOT", "ANKISYNCD_HOST"]
    assert Settings.from_env({"ANKISYNCD_PORT": "8080\r\n"}).notes == ()


def test_line_ends_and_blanks_around_other_values_do_not_matter() -> None:
    settings = Settings.from_env(
        POOL | {"ANKISYNCD_PORT": " 8080\r\n", "COGNITO_CLIENT_SECRET": "\ufeffgeheim\r"}
    )
    assert settings.port == 8080
    assert settings.cognito is not None
    assert settings.cognito.pool.client_secret == "geheim"


def test_without_a_home_folder_the_data_folder_must_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert faults_of({})[0].startswith("ANKISYNCD_DATA_ROOT is missing")
    assert faults_of(AWS)[0].startswith("ANKISYNCD_CACHE_DIR is missing")
    monkeypatch.undo()
    monkeypatch.setenv("HOME", "")
    assert Settings.from_env(AWS | {"ANKISYNCD_CACHE_DIR": "/c"}).cache_dir == Path("/c")


def test_brackets_of_an_ipv6_address_do_not_matter() -> None:
    assert Settings.from_env({"ANKISYNCD_HOST": "[::1]"}).host == "::1"


def test_limits_of_connections_can_be_set() -> None:
    settings = Settings.from_env({})
    assert (settings.connections, settings.connections_per_address) == (None, None)
    chosen = {"ANKISYNCD_CONNECTIONS": "100", "ANKISYNCD_CONNECTIONS_PER_ADDRESS": "0"}
    settings = Settings.from_env(chosen)
    assert (settings.connections, settings.connections_per_address) == (100, 0)


def test_the_history_is_as_long_as_the_operator_says(tmp_path: Path) -> None:
    env = {"ANKISYNCD_DATA_ROOT": str(tmp_path), "ANKISYNCD_HISTORY_DAYS": "90"}
    stores = build_stores(Settings.from_env(env), None, offload=run_inline, clock_ms=lambda: 0)
    stores.close()
    assert stores.limits.history_ms == 90 * 24 * 3600 * 1000


def test_the_longest_history_is_one_that_media_indexes_remember() -> None:
    """The sweep of media contents raises an error for a longer one, and deletes nothing any more."""
    assert Settings.from_env({"ANKISYNCD_HISTORY_DAYS": "365"}).history_days == 365
    assert GONE_KEPT_S > 366 * 24 * 3600
    (fault,) = faults_of({"ANKISYNCD_HISTORY_DAYS": "366"})
    assert fault == "ANKISYNCD_HISTORY_DAYS must be a whole number from 1 to 365, not '366'"


def test_metrics_are_off_and_otherwise_on_a_port_of_their_own_on_this_machine() -> None:
    assert Settings.from_env({}).metrics_port is None
    settings = Settings.from_env({"ANKISYNCD_METRICS_PORT": "9464"})
    assert (settings.metrics_host, settings.metrics_port) == ("127.0.0.1", 9464)
    both = {"ANKISYNCD_METRICS_HOST": "[::1]", "ANKISYNCD_METRICS_PORT": "9464"}
    assert Settings.from_env(both).metrics_host == "::1"
    (fault,) = faults_of({"ANKISYNCD_METRICS_HOST": "::1"})
    assert fault == "ANKISYNCD_METRICS_HOST needs ANKISYNCD_METRICS_PORT"
    (fault,) = faults_of({"ANKISYNCD_METRICS_PORT": "27702"})
    assert fault == "ANKISYNCD_METRICS_PORT must be another port than ANKISYNCD_PORT"
