"""The settings of the server, read from the environment once. No other module reads the environment.

All faults of all variables are reported in one message; values that are not clear are faults, too.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, TypeVar

from app.oldnames import OLD_NAMES, OLD_VALUES

MIB = 1024 * 1024


class Backend(StrEnum):
    """Where databases, media and head records are stored."""

    LOCAL = "local"
    AWS = "aws"


class Heads(StrEnum):
    """Where head records are stored if the objects are in a bucket."""

    DYNAMODB = "dynamodb"
    S3 = "s3"


class Auth(StrEnum):
    """The user directory that checks passwords."""

    LOCAL = "local"
    COGNITO = "cognito"


class CognitoFlow(StrEnum):
    """How passwords are checked: with the app client's id only, or with the server's AWS credentials."""

    USER = "USER_PASSWORD_AUTH"
    ADMIN = "ADMIN_USER_PASSWORD_AUTH"


class Switch(StrEnum):
    """Whether there is something."""

    ON = "on"
    OFF = "off"


class LogFormat(StrEnum):
    """The format of a log line: readable text, or a JSON object."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class AddressSource(StrEnum):
    """The source of a client's address; all but CONNECTION need a proxy that sets the header.

    The values are those of the official server's SYNC_IP_HEADER.
    """

    CONNECTION = "ConnectInfo"
    X_REAL_IP = "XRealIp"
    RIGHTMOST_X_FORWARDED_FOR = "RightmostXForwardedFor"
    CF_CONNECTING_IP = "CfConnectingIp"
    TRUE_CLIENT_IP = "TrueClientIp"
    FLY_CLIENT_IP = "FlyClientIp"


class Source(NamedTuple):
    """Where a setting came from."""

    variable: str | None
    """None: it is not set, so the default holds."""
    value: str | None


@dataclass(frozen=True, slots=True)
class FixedUser:
    """A user from a variable SYNC_USERn."""

    name: str
    password: str = field(repr=False)
    """In plain text, or a PHC hash if `Settings.passwords_hashed`."""


@dataclass(frozen=True, slots=True)
class CloudSettings:
    """Bucket and table, if the backend is AWS or an S3-compatible service."""

    bucket: str
    prefix: str
    """Empty, or ends with `/`."""
    heads: Heads
    table: str
    """Empty if heads are in the bucket."""


@dataclass(frozen=True, slots=True)
class CognitoPool:
    """The user pool and its app client.

    The client must allow `flow` and ALLOW_REFRESH_TOKEN_AUTH, and must not rotate refresh tokens; the pool
    must not remember devices. A device stays logged in as long as refresh tokens are valid.
    """

    pool_id: str
    client_id: str
    client_secret: str | None = field(repr=False)
    flow: CognitoFlow = CognitoFlow.ADMIN


@dataclass(frozen=True, slots=True)
class CognitoSettings:
    """The user pool, and how long a host key is valid without checking the login there."""

    pool: CognitoPool
    region: str | None
    recheck_minutes: int
    """0: checked with every request."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, as values only: no file or service is accessed."""

    host: str
    port: int
    data_root: Path
    official_base: Path | None
    """SYNC_BASE: where the official server kept its users' folders."""
    workers: int | None
    """Worker processes; None: one per core."""
    log_level: LogLevel
    log_format: LogFormat
    fixed_users: tuple[FixedUser, ...]
    passwords_hashed: bool
    payload_mib: int
    """MAX_SYNC_PAYLOAD_MEGS: the limit of a multipart body; unpacked files may have three times as much."""
    address_source: AddressSource
    connections: int | None
    """Open connections of one worker process, at most; None: as many as its descriptors allow."""
    connections_per_address: int | None
    """Open connections of one client address; 0: unlimited. None: a default, or 0 behind a proxy."""
    cache_dir: Path
    """Local working copies and temporary files; it may be deleted while the server is stopped."""
    cache_bytes: int | None
    """Disk space for cached databases; None: the default of `storage`."""
    history_days: int | None
    """How long every version can be restored; None: the default of `storage`."""
    quota_collection_bytes: int | None
    """Of each user who has no quota of their own; None: no limit. So the next two."""
    quota_media_bytes: int | None
    quota_media_files: int | None
    cloud: CloudSettings | None
    """None: everything is in `data_root`."""
    cognito: CognitoSettings | None
    """None: the local user list, or SYNC_USERn alone where the backend is AWS."""
    region: str | None
    """Of S3 and DynamoDB; None: as the SDK finds it."""
    metrics_port: int | None = None
    """Where /metrics is served, and nothing else; None: nowhere."""
    metrics_host: str = "127.0.0.1"
    has_pages: bool = True
    """Whether people see pages at `/` in a browser."""
    notes: tuple[str, ...] = ()
    """What was left out of values, for the operator."""

    @property
    def place(self) -> str:
        """Where data are stored, as a text."""
        if self.cloud is None:
            return str(self.data_root)
        table = f" and the DynamoDB table {self.cloud.table}" if self.cloud.table else ""
        return f"s3://{self.cloud.bucket}/{self.cloud.prefix}{table}"

    @property
    def multipart_limit_bytes(self) -> int:
        """The limit of a multipart request body, as sent."""
        return self.payload_mib * MIB

    @property
    def message_limit_bytes(self) -> int:
        """The limit of an unpacked message, which is in memory; it must have fewer bytes."""
        return self.payload_mib * MIB

    @property
    def unpacked_limit_bytes(self) -> int:
        """The limit of an unpacked file; it must have fewer bytes."""
        return 3 * self.payload_mib * MIB

    @classmethod
    def from_env(cls, env: Mapping[str, str], sources: dict[str, Source] | None = None) -> Settings:
        """Read `env`; an empty value counts as not set.

        `sources` is filled with each setting that was looked for, also if there are faults.
        Raises: SettingsError, with all faults.
        """
        read = _Reader(env, {} if sources is None else sources)
        cloud = _cloud(read)
        base = read.path("SYNC_BASE")
        cache_dir = read.path("ANKISYNCD_CACHE_DIR")
        data_root = _data_root(read, base, cache_dir, is_local=cloud is None)
        region = read.text("AWS_REGION", "AWS_DEFAULT_REGION")
        settings = cls(
            host=(read.text("ANKISYNCD_HOST", "SYNC_HOST") or "0.0.0.0").strip("[]"),  # noqa: S104 - a server is for other machines
            port=read.number("ANKISYNCD_PORT", "SYNC_PORT", least=1, most=65535) or 27702,
            data_root=data_root,
            official_base=base,
            workers=read.number("ANKISYNCD_WORKERS", least=1, most=256),
            log_level=read.choice(LogLevel, LogLevel.INFO, "ANKISYNCD_LOG_LEVEL"),
            log_format=read.choice(LogFormat, LogFormat.TEXT, "ANKISYNCD_LOG_FORMAT"),
            fixed_users=read.fixed_users(),
            passwords_hashed="PASSWORDS_HASHED" in env,
            payload_mib=read.number("MAX_SYNC_PAYLOAD_MEGS", least=1, most=1024 * 1024) or 100,
            address_source=read.choice(
                AddressSource, AddressSource.CONNECTION, "ANKISYNCD_IP_HEADER", "SYNC_IP_HEADER"
            ),
            connections=read.number("ANKISYNCD_CONNECTIONS", least=16, most=100_000),
            connections_per_address=read.number("ANKISYNCD_CONNECTIONS_PER_ADDRESS", least=0, most=100_000),
            cache_dir=cache_dir or data_root,
            cache_bytes=read.number("ANKISYNCD_CACHE_BYTES", least=64 * MIB, most=1 << 50),
            history_days=read.number("ANKISYNCD_HISTORY_DAYS", least=1, most=365),
            quota_collection_bytes=read.number("ANKISYNCD_QUOTA_COLLECTION_BYTES", least=MIB, most=1 << 50),
            quota_media_bytes=read.number("ANKISYNCD_QUOTA_MEDIA_BYTES", least=MIB, most=1 << 50),
            quota_media_files=read.number("ANKISYNCD_QUOTA_MEDIA_FILES", least=1, most=1 << 40),
            cloud=cloud,
            cognito=_cognito(read, region),
            region=region,
            metrics_port=read.number("ANKISYNCD_METRICS_PORT", least=1, most=65535),
            metrics_host=(read.text("ANKISYNCD_METRICS_HOST") or "127.0.0.1").strip("[]"),
            has_pages=read.choice(Switch, Switch.ON, "ANKISYNCD_PAGES") is Switch.ON,
            notes=tuple(read.notes),
        )
        # Last, when all known names have been read.
        read.refuse_unknown()
        if settings.metrics_port is None:
            read.refuse_without(("ANKISYNCD_METRICS_HOST",), "ANKISYNCD_METRICS_PORT")
        elif settings.metrics_port == settings.port:
            read.faults.append("ANKISYNCD_METRICS_PORT must be another port than ANKISYNCD_PORT")
        if read.faults:
            raise SettingsError(read.faults)
        return settings


class SettingsError(Exception):
    """One or more settings are wrong; the message has a line for each fault, and no secrets."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(["The settings cannot be used:", *(f"  {fault}" for fault in faults)]))
        self.faults = tuple(faults)


def _data_root(read: _Reader, base: Path | None, cache_dir: Path | None, *, is_local: bool) -> Path:
    """The data folder: as set, else a folder in SYNC_BASE, apart from the official server's files, else `~`.

    With the backend AWS no data folder is needed, and the cache folder is used.
    """
    chosen = read.path("ANKISYNCD_DATA_ROOT") or (base / "ankisyncd" if base else None)
    if chosen is None and not is_local:
        chosen = cache_dir
    if chosen is not None:
        return chosen
    try:
        home = Path("~").expanduser()
    except RuntimeError:  # HOME is not set, and the user id has no name
        home = Path()
    if not home.is_absolute():
        name = "ANKISYNCD_DATA_ROOT" if is_local else "ANKISYNCD_CACHE_DIR"
        read.faults.append(f"{name} is missing: there is no home folder to keep the data in")
    return home / ".ankisyncd"


_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]").fullmatch
_TABLE = re.compile(r"[A-Za-z0-9_.-]{3,255}").fullmatch
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*").fullmatch
_POOL = re.compile(r"([A-Za-z0-9-]+)_[A-Za-z0-9]+").fullmatch
_LONGEST_PREFIX = 256
_CLOUD_ONLY = (
    "ANKISYNCD_S3_BUCKET", "ANKISYNCD_S3_PREFIX", "ANKISYNCD_DYNAMODB_TABLE", "ANKISYNCD_HEADS",
)  # fmt: skip
_COGNITO_ONLY = ("ANKISYNCD_COGNITO_FLOW", "ANKISYNCD_RECHECK_MINUTES")


def _cloud(read: _Reader) -> CloudSettings | None:
    backend = read.choice(Backend, Backend.LOCAL, "ANKISYNCD_BACKEND")
    if backend is not Backend.AWS:
        read.refuse_without(_CLOUD_ONLY, "ANKISYNCD_BACKEND=aws")
        return None
    heads = read.choice(Heads, Heads.DYNAMODB, "ANKISYNCD_HEADS")
    bucket = read.required("ANKISYNCD_S3_BUCKET", _BUCKET, "the name of a bucket")
    prefix = (read.text("ANKISYNCD_S3_PREFIX") or "").strip("/")
    if prefix and (not _PREFIX(prefix) or len(prefix) > _LONGEST_PREFIX):
        read.faults.append("ANKISYNCD_S3_PREFIX must be parts of A-Z a-z 0-9 . _ - with / between them")
    table = ""
    if heads is Heads.DYNAMODB:
        table = read.required("ANKISYNCD_DYNAMODB_TABLE", _TABLE, "the name of a table")
    else:
        read.refuse_without(("ANKISYNCD_DYNAMODB_TABLE",), "ANKISYNCD_HEADS=dynamodb")
    return CloudSettings(bucket, f"{prefix}/" if prefix else "", heads, table)


def _cognito(read: _Reader, region: str | None) -> CognitoSettings | None:
    """The settings of the user pool; its region is part of its id, unless COGNITO_REGION is set."""
    pool_id = read.text("COGNITO_USER_POOL_ID")
    auth = read.choice(Auth, Auth.COGNITO if pool_id else Auth.LOCAL, "ANKISYNCD_AUTH")
    if auth is not Auth.COGNITO:
        read.refuse_without(_COGNITO_ONLY, "ANKISYNCD_AUTH=cognito")
        return None
    pool_id = read.required("COGNITO_USER_POOL_ID", _POOL, "a user pool's id, like eu-central-1_AbCdEf")
    client_id = read.required("COGNITO_CLIENT_ID", re.compile(r"\S+").fullmatch, "an app client's id")
    flow = read.choice(CognitoFlow, CognitoFlow.ADMIN, "ANKISYNCD_COGNITO_FLOW")
    minutes = read.number("ANKISYNCD_RECHECK_MINUTES", least=0, most=24 * 60)
    found = _POOL(pool_id)
    pool = CognitoPool(pool_id, client_id, read.text("COGNITO_CLIENT_SECRET"), flow)
    return CognitoSettings(
        pool,
        read.text("COGNITO_REGION") or (found[1] if found else region),
        5 if minutes is None else minutes,
    )


Choice = TypeVar("Choice", bound=StrEnum)


class _Reader:
    """Reads values from a mapping, and collects faults and the names of known variables."""

    def __init__(self, env: Mapping[str, str], sources: dict[str, Source]) -> None:
        self._env = env
        self._sources = sources
        self._known: set[str] = set()
        self.faults: list[str] = []
        self.notes: list[str] = []

    def text(self, *names: str) -> str | None:
        return self._find(names)[1]

    def path(self, *names: str) -> Path | None:
        """A folder; a path relative to the working directory is a fault."""
        name, value = self._find(names)
        if value is None:
            return None
        try:
            path = Path(value).expanduser()
        except RuntimeError:
            path = Path(value)
        if not path.is_absolute():
            self.faults.append(f"{name} must be a whole path, beginning with /, not {value!r}")
        return path

    def number(self, *names: str, least: int, most: int) -> int | None:
        name, value = self._find(names)
        if value is None:
            return None
        return self._convert(
            name, value, lambda: _integer(value, least, most), f"a whole number from {least} to {most}"
        )

    def choice(self, kind: type[Choice], default: Choice, *names: str) -> Choice:
        name, value = self._find(names)
        if value is None:
            return default
        members = {member.value.lower(): member for member in kind}
        wanted = "one of " + ", ".join(member.value for member in kind)
        if value in OLD_VALUES:
            wanted = f"{OLD_VALUES[value]}, as it is called now"
        return self._convert(name, value, lambda: members[value.lower()], wanted) or default

    def required(self, name: str, fits: Callable[[str], object], wanted: str) -> str:
        """A required value; if it is missing or invalid, that is a fault."""
        value = self.text(name)
        if value is None:
            self.faults.append(f"{name} is missing: {wanted}")
        elif not fits(value):
            self.faults.append(f"{name} must be {wanted}, not {value!r}")
        return value or ""

    def refuse_without(self, names: tuple[str, ...], needed: str) -> None:
        """Variables that have no effect without another one: setting them is a fault."""
        self.faults += [f"{name} needs {needed}" for name in names if self.text(name)]

    def fixed_users(self) -> tuple[FixedUser, ...]:
        """SYNC_USER1, SYNC_USER2 and so on. Variables that the official server would ignore are faults."""
        users: dict[str, FixedUser] = {}
        number = 0
        # Like the official server, read up to the first gap; variables after it are faults, see below.
        while value := self._env.get(f"SYNC_USER{number + 1}"):
            number += 1
            variable = f"SYNC_USER{number}"
            value = self._cleaned(variable, value)
            self._sources[variable] = Source(variable, value)
            name, colon, password = value.partition(":")
            if fault := _fault_of_text(value):
                self.faults.append(f"{variable} {fault}")
            elif not (name and colon and password):
                self.faults.append(f"{variable} must be name:password")
            elif name != name.strip() or password != password.strip():
                self.faults.append(f"{variable} has blanks around the name or the password: remove them")
            elif name in users:
                self.faults.append(f"{variable} names {name!r} a second time")
            else:
                users[name] = FixedUser(name, password)
        read = {f"SYNC_USER{known}" for known in range(1, number + 1)}
        for variable in sorted(self._env.keys() - read):
            if re.fullmatch(r"SYNC_USER[0-9]*", variable) and self._env[variable]:
                self.faults.append(f"{variable} is not read: the next one is SYNC_USER{number + 1}")
        return tuple(users.values())

    def refuse_unknown(self) -> None:
        """Unknown variables ANKISYNCD_... are faults, as a misspelt setting would have no effect."""
        for name in sorted(self._env):
            if name.startswith("ANKISYNCD_") and name not in self._known:
                # Suggest the most similar setting.
                near = difflib.get_close_matches(name, self._known, 1)
                hint = OLD_NAMES.get(name) or (f"{near[0]} is" if near else "")
                self.faults.append(f"{name} is not a setting" + (f"; {hint}" if hint else ""))

    def _find(self, names: tuple[str, ...]) -> tuple[str, str | None]:
        """(name, value) of the first of `names` that is set; this program's own name comes first."""
        self._known.update(names)
        self._sources.setdefault(names[0], Source(None, None))
        for name in names:
            if value := self._cleaned(name, self._env.get(name, "").strip()):
                if fault := _fault_of_text(value):
                    self._add_once(self.faults, f"{name} {fault}")
                self._sources[names[0]] = Source(name, value)
                return name, value
        return names[0], None

    def _cleaned(self, name: str, value: str) -> str:
        """The value without line breaks and quotes around it, which are never part of a value."""
        # Files edited on Windows have \r, or a byte order mark.
        found = value.strip(_AROUND)
        if len(found) > 1 and found[0] == found[-1] and found[0] in "\"'":
            found = found[1:-1].strip(_AROUND)
            self._add_once(self.notes, f"{name} stands in quotes, which were left out: remove them")
        elif found != value:
            self._add_once(self.notes, f"{name} has a line break or a byte order mark, which was left out")
        return found

    def _add_once(self, lines: list[str], line: str) -> None:
        if line not in lines:
            lines.append(line)

    def _convert(self, name: str, value: str, convert: Callable[[], T], wanted: str) -> T | None:
        try:
            return convert()
        except (ValueError, KeyError):
            self.faults.append(f"{name} must be {wanted}, not {value!r}")
            return None


T = TypeVar("T")


_AROUND = "\r\n\ufeff"
_INVISIBLE = "\ufeff\ufffe\u200b\u2060\u2028\u2029"


def _fault_of_text(value: str) -> str | None:
    """What is wrong with the characters of a value, or None; values come from files of various encodings."""
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "is not UTF-8: save the file that it comes from as UTF-8"
    if any(character in _INVISIBLE or unicodedata.category(character) == "Cc" for character in value):
        return "has an invisible character in it (a tab?): type it anew"
    return None


def _integer(text: str, least: int, most: int) -> int:
    number = int(text)
    if not least <= number <= most:
        raise ValueError
    return number
