"""`docker/up`, with a `docker` that notes what it is asked; what it settles is read by the real Compose."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import termios
import time

import pytest

from app.config import Settings
from tests.docker.compose import DOCKER, environment_of, merged

HASH = "$argon2id$v=19$m=32768,t=3,p=1$c2FsdA$aGFzaA"
ODD_PASSWORDS = [
    "correct horse", r"ab\cdefghijk", r"a\nb-long-secret", "-n", r"oct\0101", "  spaces  ", "quote'and\"",
    "$HOME `id` $(id)", "#!%&*?", "müß 日本", "\\", "a=b",
]  # fmt: skip
FAKE = r"""#!/bin/sh
echo "$@" >> {folder}/asked
case "$*" in
    *"user hash"*) cat >> {folder}/read; echo '{hash}' ;;
    *"user add"*) cat >> {folder}/read; [ ! -e {folder}/exists ] ;;
    *"user list"*) echo '[{{"name": "ann"}}]' ;;
    *"caddy validate"*) [ ! -e {folder}/bad-certificate ] || {{ echo 'key does not match' >&2; exit 1; }} ;;
esac
"""


class Up:
    """A copy of `docker/`, whose `up` is run as a person would."""

    def __init__(self, tmp_path) -> None:
        self.top, self.folder = tmp_path, tmp_path / "docker"
        ignored = shutil.ignore_patterns(".env*", "*.env.new", "settings.env", "users.env", "tls")
        shutil.copytree(DOCKER, self.folder, ignore=ignored)
        programs = tmp_path / "programs"
        programs.mkdir()
        (programs / "docker").write_text(FAKE.format(folder=tmp_path, hash=HASH))
        (programs / "docker").chmod(0o755)
        self.environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def __call__(
        self, *words: str, shell: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        for name in ("asked", "read"):
            (self.top / name).write_text("")
        return subprocess.run(
            [*([shell] if shell else []), self.folder / "up", *words],
            env=self.environment | environment, cwd=self.top, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip

    def fine(self, *words: str, **environment: str) -> str:
        done = self(*words, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def asked(self) -> str:
        return (self.top / "asked").read_text()

    @property
    def read(self) -> str:
        return (self.top / "read").read_text()

    @property
    def env(self) -> str:
        return (self.folder / ".env").read_text()

    def settled(self, name: str) -> str:
        return re.findall(rf"^{name}='(.*)'$", self.env, re.M)[-1]

    def server(self) -> dict[str, str]:
        return environment_of(merged(self.folder)["services"]["server"])


@pytest.fixture
def up(tmp_path) -> Up:
    return Up(tmp_path)


ANN = ["--user", "ann", "sync.example.com"]


def test_up_starts_everything_and_makes_the_first_user(up):
    out = up.fine(*ANN, ANKISYNCD_PASSWORD="correct horse")
    assert "https://sync.example.com/" in out
    assert re.search("compose build .*server", up.asked)
    assert "compose up --detach --wait" in up.asked
    assert "exec -T server ankisyncctl user add --password-stdin ann" in up.asked
    assert up.read == "correct horse\n"
    assert (up.folder / ".env").stat().st_mode & 0o077 == 0
    assert up.settled("TLS_MODE") == "automatic"
    assert set(merged(up.folder)["services"]) == {"server", "tls"}


@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize("password", ODD_PASSWORDS)
def test_a_password_arrives_as_it_was_given_and_is_written_nowhere(up, password, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not on this machine")
    assert up(*ANN, shell=shell, ANKISYNCD_PASSWORD=password).returncode == 0
    assert up.read == f"{password}\n"
    assert password not in up.asked.split()
    assert "ANKISYNCD_PASSWORD" not in up.env


@pytest.mark.parametrize("form", [[], ["--s3"]])
@pytest.mark.parametrize("password", ODD_PASSWORDS)
def test_a_password_that_is_typed_arrives_as_it_was_typed(up, password, form):
    (up.top / "asked").write_text("")
    shown = typed(up, [*form, *ANN], password)
    assert up.read == f"{password}\n"
    assert len(password) < 3 or password not in shown  # nor does the terminal show it


def test_an_interrupted_question_leaves_a_terminal_that_shows_what_is_typed(up):
    process, terminal = pty.fork()
    if not process:
        # Ignored in what a shell has started in the background; a shell cannot trap what it finds ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.chdir(up.top)
        os.execve(up.folder / "up", ["up", *ANN], up.environment)
    assert silent(terminal)
    # Between two commands the shell does not see the first one until the next key, so people press again.
    ended = 0
    while not ended:
        os.write(terminal, b"\x03")
        time.sleep(0.1)
        ended, status = os.waitpid(process, os.WNOHANG)
    assert os.waitstatus_to_exitcode(status) == 130
    assert termios.tcgetattr(terminal)[3] & termios.ECHO
    os.close(terminal)


def typed(up: Up, words: list[str], password: str) -> str:
    """Run `up` on a terminal, answer its question for the password, and return what the terminal showed."""
    process, terminal = pty.fork()
    if not process:
        os.chdir(up.top)
        os.execve(up.folder / "up", ["up", *words], up.environment)
    shown, deadline, answered = b"", time.monotonic() + 30, False
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux says so when the other side is closed
            break
        if not piece:
            break
        shown += piece
        if not answered and b"Password of" in shown and silent(terminal):
            os.write(terminal, password.encode() + b"\n")
            answered = True
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, shown
    return shown.decode()


def silent(terminal: int) -> bool:
    """Whether the terminal has stopped to show what is typed; the question comes just before."""
    for _ in range(200):
        if not termios.tcgetattr(terminal)[3] & termios.ECHO:
            return True
        time.sleep(0.01)
    return False


def test_a_second_up_needs_no_words_and_changes_nothing_settled(up):
    up.fine("--self-signed", *ANN, ANKISYNCD_PASSWORD="correct horse")
    before = up.env
    up.fine()
    assert up.env == before
    assert up.settled("TLS_MODE") == "internal"
    assert "user add" not in up.asked
    assert "cp tls:" in up.asked


def test_lines_of_ones_own_outlive_every_run(up):
    up.fine(*ANN, ANKISYNCD_PASSWORD="x")
    with (up.folder / ".env").open("a") as file:
        file.write("MEMORY_LIMIT=512m\n# a remark\nODD='it is $(mine)'\n")
    (up.folder / "settings.env").write_text(
        "MAX_SYNC_PAYLOAD_MEGS=500\nANKISYNCD_LOG_FORMAT=json\nSYNC_USER2=bob:b\n"
    )
    mine = (up.folder / "settings.env").read_text()
    for words in ([], ["--behind-proxy"], ["--automatic", "other.example.com"], []):
        up.fine(*words)
        for line in ("MEMORY_LIMIT=512m", "# a remark", "ODD='it is $(mine)'"):
            assert up.env.splitlines().count(line) == 1
        assert (up.folder / "settings.env").read_text() == mine
    assert up.server()["MAX_SYNC_PAYLOAD_MEGS"] == "500"
    assert merged(up.folder)["services"]["server"]["mem_limit"] == str(512 * 1024 * 1024)


def test_nothing_in_the_file_of_what_was_settled_is_executed(up):
    (up.folder / ".env").write_text(
        f"EVIL=$(touch {up.top}/evil)\nANKISYNCD_DOMAIN='$(touch {up.top}/evil)'\n"
    )
    assert up("--user", "ann", ANKISYNCD_PASSWORD="x").returncode == 2
    assert not (up.top / "evil").exists()


def test_what_the_first_version_settled_is_understood(up):
    """Its .env, in which settings stood too; its stack passed on three of them."""
    (up.folder / ".env").write_text(
        "ANKISYNCD_DOMAIN='sync.example.com'\nANKISYNCD_FIRST_USER='ann'\nTLS_MODE='internal'\nSTORE='folder'\n"
        "STORE_SECRET='abc'\nSYNC_USER1=''\nMAX_SYNC_PAYLOAD_MEGS=500\nANKISYNCD_LOG_FORMAT=json\n"
    )
    up.fine()
    assert "user add" not in up.asked
    assert up.settled("STORE_SECRET") == "abc"
    server = up.server()
    assert (server["MAX_SYNC_PAYLOAD_MEGS"], server["ANKISYNCD_LOG_FORMAT"]) == ("500", "json")
    Settings.from_env(server)


def test_a_user_of_the_first_versions_store_form_is_taken_over_as_a_hash(up):
    (up.folder / ".env").write_text(
        "ANKISYNCD_DOMAIN='sync.example.com'\nANKISYNCD_FIRST_USER='ann'\nTLS_MODE='internal'\nSTORE='s3'\n"
        "STORE_SECRET='abc'\nSYNC_USER1='ann:pass:w\"rd'\n"
    )
    up.fine()
    assert up.read == 'pass:w"rd\n'
    assert "pass:" not in up.env + (up.folder / "users.env").read_text()
    assert up.server()["SYNC_USER1"] == f"ann:{HASH}"
    up.fine()
    assert up.read == ""


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_value_that_a_person_wrote_may_have_any_quotes(up, quote):
    (up.folder / ".env").write_text(f"ACME_EMAIL={quote}a@example.com{quote}\n")
    up.fine(*ANN, ANKISYNCD_PASSWORD="x")
    assert up.settled("ACME_EMAIL") == "a@example.com"


def test_up_makes_further_users(up):
    up.fine(*ANN, ANKISYNCD_PASSWORD="x")
    up.fine("--user", "bob", ANKISYNCD_PASSWORD="y")
    assert "user add --password-stdin bob" in up.asked
    assert up.read == "y\n"


def test_a_run_that_died_after_it_made_the_user_is_no_obstacle(up):
    (up.top / "exists").touch()  # so `user add` fails
    up.fine(*ANN, ANKISYNCD_PASSWORD="x")
    assert up.settled("ANKISYNCD_FIRST_USER") == "ann"
    assert up("--user", "bob", ANKISYNCD_PASSWORD="x").returncode == 1


def test_the_store_form_has_a_user_list_with_hashes(up):
    up.fine("--s3", *ANN, ANKISYNCD_PASSWORD="it's $1")
    assert "run --rm -T server ankisyncctl init" in up.asked
    assert len(up.settled("STORE_SECRET")) == 48
    up.fine("--user", "a.n", ANKISYNCD_PASSWORD="x")
    up.fine("--user", "ann", ANKISYNCD_PASSWORD="another")
    found = Settings.from_env(up.server())
    assert sorted((user.name, user.password) for user in found.fixed_users) == [("a.n", HASH), ("ann", HASH)]
    assert found.passwords_hashed
    assert found.cloud is not None
    assert (up.folder / "users.env").stat().st_mode & 0o077 == 0
    before = up.env, (up.folder / "users.env").read_text()
    up.fine()
    assert (up.env, (up.folder / "users.env").read_text()) == before


def test_a_line_taken_out_of_the_user_list_leaves_no_gap_for_the_next_user(up):
    """The server reads SYNC_USER1, SYNC_USER2 and so on up to the first that is missing."""
    up.fine("--s3", *ANN, ANKISYNCD_PASSWORD="x")
    up.fine("--user", "bob", ANKISYNCD_PASSWORD="x")
    users = up.folder / "users.env"
    users.write_text(
        "".join(line for line in users.read_text().splitlines(keepends=True) if "ann" not in line)
    )
    up.fine("--user", "eve", ANKISYNCD_PASSWORD="x")
    assert [user.name for user in Settings.from_env(up.server()).fixed_users] == ["bob", "eve"]


def test_a_secret_that_was_used_is_kept_when_the_run_fails(up):
    (up.top / "programs/docker").write_text('#!/bin/sh\ncase "$*" in *version*) ;; *) exit 1 ;; esac\n')
    assert up("--s3", *ANN, ANKISYNCD_PASSWORD="x").returncode == 1
    assert len(up.settled("STORE_SECRET")) == 48
    assert up.settled("ANKISYNCD_FIRST_USER") == ""


@pytest.fixture
def pair(up) -> list[str]:
    (up.top / "fullchain.pem").write_text("CERT")
    (up.top / "privkey.pem").write_text("KEY")
    return ["--given", "fullchain.pem", "privkey.pem"]  # from where the caller stands


def test_up_takes_a_certificate_that_is_given(up, pair):
    up.fine(*pair, *ANN, ANKISYNCD_PASSWORD="x")
    installed = up.folder / "tls/certificate.pem"
    assert installed.read_text() == "CERT\nKEY"
    assert installed.stat().st_mode & 0o077 == 0
    tls = merged(up.folder)["services"]["tls"]
    assert tls["environment"]["TLS_MODE"] == "given"
    assert "DAC_READ_SEARCH" in tls["cap_add"]


def test_a_renewed_certificate_is_taken_up_without_a_restart(up, pair):
    up.fine(*pair, *ANN, ANKISYNCD_PASSWORD="x")
    (up.top / "fullchain.pem").write_text("CERT2")
    up.fine(*pair)
    assert (up.folder / "tls/certificate.pem").read_text() == "CERT2\nKEY"
    lines = up.asked.splitlines()
    assert "caddy validate" in next(line for line in lines if "run" in line)
    assert "exec -T tls caddy reload --force" in lines[-1]


def test_a_certificate_that_cannot_be_used_replaces_nothing(up, pair):
    up.fine(*pair, *ANN, ANKISYNCD_PASSWORD="x")
    (up.top / "fullchain.pem").write_text("CERT2")
    (up.top / "bad-certificate").touch()
    done = up(*pair)
    assert done.returncode == 2
    assert "key does not match" in done.stderr
    assert (up.folder / "tls/certificate.pem").read_text() == "CERT\nKEY"


def test_the_certificate_of_the_first_version_is_taken_over(up):
    (up.folder / "tls").mkdir()
    (up.folder / "tls/cert.pem").write_text("CERT\n")
    (up.folder / "tls/key.pem").write_text("KEY\n")
    (up.folder / ".env").write_text(
        "ANKISYNCD_DOMAIN='sync.example.com'\nANKISYNCD_FIRST_USER='ann'\nTLS_MODE='given'\nSTORE='folder'\n"
    )
    up.fine()
    assert (up.folder / "tls/certificate.pem").read_text() == "CERT\n\nKEY\n"


@pytest.mark.parametrize(
    ("words", "published", "header"),
    [
        (["--behind-proxy"], "127.0.0.1:27702", "RightmostXForwardedFor"),
        (["--behind-proxy", "172.17.0.1:8000"], "172.17.0.1:8000", "RightmostXForwardedFor"),
        (["--http"], "0.0.0.0:27702", "ConnectInfo"),
        (["--http", "8080", "nas.lan"], ":8080", "ConnectInfo"),
        (["--http", "192.168.1.5"], "0.0.0.0:27702", "ConnectInfo"),
    ],
)
def test_a_port_without_tls(up, words, published, header):
    out = up.fine("--user", "ann", *words, ANKISYNCD_PASSWORD="x")
    found = merged(up.folder)
    assert set(found["services"]) == {"server"}
    port = found["services"]["server"]["ports"][0]
    assert f"{port.get('host_ip', '')}:{port['published']}" == published
    assert up.server()["ANKISYNCD_IP_HEADER"] == header
    assert ("http://" in out.splitlines()[-1]) == ("--http" in words)
    up.fine()
    assert merged(up.folder) == found


def test_a_proxy_that_names_addresses_in_another_header_is_believed(up):
    up.fine("--behind-proxy", "--user", "ann", ANKISYNCD_PASSWORD="x")
    up.folder.joinpath(".env").write_text(re.sub("IP_HEADER='.*'", "IP_HEADER='CfConnectingIp'", up.env))
    up.fine()
    assert up.server()["ANKISYNCD_IP_HEADER"] == "CfConnectingIp"


def test_an_address_without_a_name_can_be_self_signed_only(up):
    assert "--self-signed" in up("--user", "ann", "192.168.1.20", ANKISYNCD_PASSWORD="x").stderr
    assert "https://192.168.1.20/" in up.fine(
        "--self-signed", "--user", "ann", "192.168.1.20", ANKISYNCD_PASSWORD="x"
    )


def test_the_mail_address_of_the_certificates_is_a_setting(up):
    up.fine("--email", "ops@example.com", *ANN, ANKISYNCD_PASSWORD="x")
    assert merged(up.folder)["services"]["tls"]["environment"]["ACME_EMAIL"] == "ops@example.com"


def test_a_folder_of_ones_own_is_written_to_by_its_owner(up):
    if os.geteuid():
        pytest.skip("only root gives a folder to another user")
    data = up.top / "collections"
    data.mkdir()
    assert "chown" in up("--folder", "collections", *ANN, ANKISYNCD_PASSWORD="x").stderr
    os.chown(data, 1234, 5678)
    up.fine("--folder", "collections", *ANN, ANKISYNCD_PASSWORD="x")
    server = merged(up.folder)["services"]["server"]
    assert server["user"] == "1234:5678"
    assert {"bind", str(data)} <= {str(value) for mount in server["volumes"] for value in mount.values()}


EXTERNAL = (
    "ANKISYNCD_BACKEND=aws\nANKISYNCD_HEADS=s3\nANKISYNCD_S3_BUCKET=anki-sync\n"
    "AWS_ENDPOINT_URL_S3=https://s3.example.com\nAWS_ACCESS_KEY_ID=k\nAWS_SECRET_ACCESS_KEY='s$1'\n"
)
POOL = "COGNITO_USER_POOL_ID=eu-central-1_AbCdEf\nCOGNITO_CLIENT_ID=abc\nAWS_REGION=eu-central-1\n"


def test_a_store_that_one_has_is_reached_and_no_other_is_started(up):
    assert "ANKISYNCD_BACKEND" in up("--external-s3", *ANN, ANKISYNCD_PASSWORD="x").stderr
    (up.folder / "settings.env").write_text(EXTERNAL)
    up.fine("--external-s3", *ANN, ANKISYNCD_PASSWORD="x")
    found = merged(up.folder)
    assert set(found["services"]) == {"server", "tls"}
    assert set(found["services"]["server"]["networks"]) == {"inside", "outside"}
    settings = Settings.from_env(up.server())
    assert settings.cloud is not None and settings.cloud.bucket == "anki-sync"
    assert [user.name for user in settings.fixed_users] == ["ann"]
    assert up.server()["AWS_SECRET_ACCESS_KEY"] == "s$1"


def test_users_of_a_cognito_pool(up):
    assert "COGNITO_USER_POOL_ID" in up("--cognito", "sync.example.com").stderr
    (up.folder / "settings.env").write_text(POOL)
    up.fine("--cognito", "sync.example.com")
    assert "user" not in up.asked
    assert set(merged(up.folder)["services"]["server"]["networks"]) == {"inside", "outside"}
    settings = Settings.from_env(up.server())
    assert settings.cognito is not None and settings.cloud is None
    up.fine()
    assert "pool has the users" in up("--user", "ann").stderr


def test_an_image_that_is_given_is_run_and_none_is_built(up):
    up.fine("--image", "registry.example.com/ankisyncd:0.1.0", *ANN, ANKISYNCD_PASSWORD="x")
    up.fine()
    assert "build" not in up.asked.replace("--no-build", "")
    assert merged(up.folder)["services"]["server"]["image"] == "registry.example.com/ankisyncd:0.1.0"
    up.fine("--build")
    assert "compose build" in up.asked


def test_an_override_of_ones_own_is_the_last_word(up):
    (up.folder / "compose.override.yaml").write_text("services:\n  server:\n    hostname: mine\n")
    up.fine(*ANN, ANKISYNCD_PASSWORD="x")
    assert merged(up.folder)["services"]["server"]["hostname"] == "mine"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["https://sync.example.com/"], "no host name"),
        (["Sync.example.com"], "no host name"),
        (["--http", "--user", "ann", "Sync.example.com"], "no host name"),
        (["a.example.com", "b.example.com"], "one domain"),
        (["--user", "a b", "sync.example.com"], "characters"),
        (["--given", "/nothing", "/nowhere", "--user", "ann", "sync.example.com"], "cannot be read"),
        (["--given", "/nothing"], "two files"),
        (["--email", "a b", *ANN], "no e-mail"),
        (["--folder", "/nothing/here", *ANN], "no folder"),
        (["--image", "a b", *ANN], "no name of an image"),
        (["--user", "ann"], "Host name of the server is missing"),
        (["sync.example.com"], "Name of the first user is missing"),
        (["--user", "ann", "sync.example.com"], "ANKISYNCD_PASSWORD is missing"),
        (["--nonsense"], "no option"),
    ],
)
def test_up_says_what_it_cannot_work_with_and_starts_nothing(up, words, complaint):
    password = {"ANKISYNCD_PASSWORD": "x"} if complaint != "ANKISYNCD_PASSWORD is missing" else {}
    done = up(*words, **password)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert " up --detach" not in up.asked


def test_ctl_runs_the_admin_command_in_the_server_from_anywhere(up):
    (up.top / "asked").write_text("")
    done = subprocess.run(
        ["docker/ctl", "history", "list", "ann b"],
        cwd=up.top, env=up.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert up.asked == "compose exec -T server ankisyncctl history list ann b\n"
