"""`ankisyncd`: checks the settings and the place it runs in, says where it listens, and serves."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import apsw
import gevent
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from app.auth.local.environment import EnvironmentUsers
from app.cli.folders import use_folder
from app.cli.preload import load_modules
from app.config import AddressSource, Settings, SettingsError
from app.http.accesslog import LineFormatter, configure_logging
from app.http.logstream import LogStream, LogText, open_standard_descriptors
from app.http.server.connections import SPARE, ConnectionLimits
from app.http.server.worker import SyncWorker, ignore_terminal_signals, server_log, sync_worker
from app.version import VERSION
from storage.errors import StorageError

_KEEPALIVE_S = 310
"""Longer than the idle time of the proxy in front (300 s in terraform/ and docker/): a connection that we
close while the proxy sends a request on it becomes a 502."""

_MOST_CONNECTIONS = 16_384
"""Of one worker, if it may have so many descriptors; each takes about 20 KB of memory."""

_MOST_DESCRIPTORS = 65_536
_SPARE_DESCRIPTORS = 256
"""For databases, objects and temporary files, beside a quarter of all."""

_PER_ADDRESS = 512
"""Connections of one address to one worker. A client opens two or three; an office shares one address."""

_STDOUT = 1

_CHECK_S = 60
_STOP_S = 110
"""How long running requests may go on after SIGTERM: below the 120 s after which compose and Fargate kill."""
_HANG_S = 120


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, set up by our settings alone; `build` makes each worker's `app.main.Process`."""

    process: Any

    def __init__(self, options: Mapping[str, Any], build: Callable[[], Any]) -> None:
        self._options = options
        self._build = build
        super().__init__()

    def load_config(self) -> None:
        """Hand our options to gunicorn."""
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Make the WSGI application; called after the fork. A worker that cannot is told to the operator.

        gunicorn then ends, instead of starting one worker after the other.
        """
        try:
            self.process = self._build()
        except (SettingsError, StorageError, OSError, apsw.Error) as exc:
            logging.getLogger("ankisyncd").critical("a worker cannot start: %s: %s", type(exc).__name__, exc)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        gevent.spawn(self.process.run_forever)
        gevent.spawn(self.process.watch_orders)
        if self.process.watch is not None:
            gevent.spawn(self.process.watch)
        return self.process.wsgi_app


def options_of(settings: Settings) -> dict[str, Any]:
    """Gunicorn's options."""
    stream = LogStream(_STDOUT, LineFormatter(settings.log_format).lost)
    lines = configure_logging(settings.log_format, settings.log_level, stream)
    limits = connection_limits(settings)
    shared_memory = Path("/dev/shm")  # noqa: S108 - heartbeat files, which must not wait for a disk
    return {
        "bind": [f"{_bracketed(host)}:{port}" for host, port in _listeners(settings)],
        "workers": settings.workers or len(os.sched_getaffinity(0)),
        "worker_class": sync_worker(limits),
        "worker_connections": limits.most + SPARE,
        "logger_class": server_log(lines),
        "keepalive": _KEEPALIVE_S,
        "graceful_timeout": _STOP_S,
        "timeout": _HANG_S,
        "worker_tmp_dir": str(shared_memory) if os.access(shared_memory, os.W_OK) else None,
        "control_socket_disable": True,
        "limit_request_field_size": 8 * 1024,
        "limit_request_fields": 64,
        "proc_name": "ankisyncd",
        # We look at no header that a proxy sets for gunicorn; so it need not look who the proxy is.
        "forwarded_allow_ips": "*",
        "forwarder_headers": "",
        "secure_scheme_headers": {},
        "when_ready": lambda _arbiter: ignore_terminal_signals(),
        "post_worker_init": _started,
        "worker_exit": _ended,
        "child_exit": _forget_gauges if settings.metrics_port else lambda _arbiter, _worker: None,
    }


def connection_limits(settings: Settings) -> ConnectionLimits:
    """What the settings say, or what the descriptors that a process may have allow."""
    per_address = settings.connections_per_address
    if per_address is None:
        # Behind a proxy all connections are the proxy's.
        per_address = _PER_ADDRESS if settings.address_source is AddressSource.CONNECTION else 0
    return ConnectionLimits(
        most=settings.connections or min(_MOST_CONNECTIONS, _allowed_connections()),
        per_address=per_address,
        counts_local=settings.connections_per_address is not None,
    )


def _allowed_connections() -> int:
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if descriptors == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(16, (descriptors - _SPARE_DESCRIPTORS) * 3 // 4)


def raise_descriptors() -> None:
    """Use as many descriptors as the system allows; processes start with 1024, even if more are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listeners(settings: Settings) -> list[tuple[str, int]]:
    """Hosts and ports: of the server, and of its metrics."""
    found = [(settings.host, settings.port)]
    if settings.metrics_port is not None:
        found.append((settings.metrics_host, settings.metrics_port))
    return found


def make_metrics_folder(settings: Settings) -> Path | None:
    """An empty folder for the metrics of all workers; None if there are none.

    Each server has a port of its own for them, so servers that share a cache folder do not meet here.
    """
    if settings.metrics_port is None:
        return None
    folder = settings.cache_dir / "metrics" / str(settings.metrics_port)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # read when prometheus-client is imported
    # Before `load_modules` patches threading: its lock is taken by native threads too, for a microsecond and
    # never while a greenlet waits, so it has to be a native one.
    import_module("prometheus_client")
    return folder


def _forget_gauges(_arbiter: Any, worker: SyncWorker) -> None:
    """What a worker that has ended had running is not running any more; its counters stay."""
    import_module("prometheus_client.multiprocess").mark_process_dead(worker.pid)


def _started(worker: SyncWorker) -> None:
    worker.log.lines.observe = worker.app.process.observe
    if worker.age == 1 and not worker.app.process.has_users():
        worker.log.warning("there is no user yet; make one with ankisyncctl user add NAME, or set SYNC_USER1")


def _ended(_arbiter: Any, worker: SyncWorker) -> None:
    process = getattr(worker.app, "process", None)
    if process is not None:  # it is missing where the worker failed to start
        process.close()


def main() -> None:
    """Start the server; returns when it was told to stop."""
    if sys.argv[1:] == ["--version"]:
        print(f"ankisyncd {VERSION}")
        return
    if len(sys.argv) > 1:
        print(
            "ankisyncd takes no arguments: its settings are environment variables, see README.md",
            file=sys.stderr,
        )
        sys.exit(0 if sys.argv[1:] == ["--help"] else 2)
    open_standard_descriptors()
    ignore_terminal_signals()
    os.umask(0o077)  # whatever is made from here on is for the owner alone
    raise_descriptors()
    try:
        settings = Settings.from_env(os.environ)
        prepare(settings)
    except (SettingsError, StartError) as exc:
        print(exc, file=sys.stderr)
        sys.exit(2)
    # From here on output that cannot be written is lost, also that of libraries.
    sys.stdout = sys.stderr = LogText(LogStream(_STDOUT, LineFormatter(settings.log_format).lost))
    print(greeting(settings))
    metrics_folder = make_metrics_folder(settings)
    load_modules()
    Server(options_of(settings), lambda: _build(settings, metrics_folder)).run()


def _build(settings: Settings, metrics_folder: Path | None) -> Any:
    from app.main import build_process  # noqa: PLC0415 - imported by `load_modules`

    return build_process(settings, metrics_folder)


class StartError(Exception):
    """The settings are well-formed, but the server cannot run with them here."""


def prepare(settings: Settings) -> None:
    """Make the data folder and see whether it and the port can be used.

    Raises: StartError, with all faults.
    """
    faults = [
        *_password_faults(settings),
        *_folder_faults(settings),
        *_listener_faults(settings),
        *_cloud_faults(settings),
    ]
    if faults:
        raise StartError("\n".join(["The server cannot start:", *(f"  {fault}" for fault in faults)]))


def _password_faults(settings: Settings) -> list[str]:
    """A hash that cannot be used is found here, and not by a worker that then dies."""
    credentials = [(user.name, user.password) for user in settings.fixed_users]
    try:
        EnvironmentUsers(credentials, hashed=settings.passwords_hashed)
    except ValueError as exc:
        return [str(exc)]
    return []


def _folder_faults(settings: Settings) -> list[str]:
    chosen = {settings.cache_dir: "ANKISYNCD_CACHE_DIR"}
    if settings.cloud is None or settings.cache_dir == settings.data_root:
        chosen[settings.data_root] = "ANKISYNCD_DATA_ROOT"
    faults = []
    for folder, variable in chosen.items():
        try:
            use_folder(folder)
        except (OSError, apsw.Error) as exc:
            where = f", at {exc.filename}" if isinstance(exc, OSError) and exc.filename else ""
            reason = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
            faults.append(f"the folder {folder} cannot be used: {reason}{where} ({_cure(exc, variable)})")
    return faults


def _cure(exc: Exception, variable: str) -> str:
    if isinstance(exc, PermissionError | apsw.CantOpenError | apsw.ReadOnlyError):
        return (
            f"give it to the user that runs the server, uid {os.geteuid()}, or choose another by {variable}"
        )
    if isinstance(exc, OSError) and exc.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"free some space, or choose another by {variable}"
    return f"{variable} chooses another"


def _cloud_faults(settings: Settings) -> list[str]:
    """Bucket, table and user pool, looked at by another process: see `app.cli.cloudcheck`."""
    if settings.cloud is None and settings.cognito is None:
        return []
    check = [sys.executable, "-m", "app.cli.cloudcheck"]
    try:
        done = subprocess.run(check, check=False, capture_output=True, text=True, timeout=_CHECK_S)
    except subprocess.TimeoutExpired:
        return [f"the cloud services did not answer in {_CHECK_S} seconds"]
    except OSError as exc:
        return [f"the cloud services could not be looked at: {exc}"]
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        return [f"the cloud services could not be looked at: {lines[-1]}"]
    print(done.stderr, file=sys.stderr, end="", flush=True)  # what does not keep the server from starting
    return done.stdout.splitlines()


def _listener_faults(settings: Settings) -> list[str]:
    prefixes = ("ANKISYNCD", "ANKISYNCD_METRICS")
    found = zip(_listeners(settings), prefixes, strict=False)
    return [fault for (host, port), prefix in found for fault in _port_faults(host, port, prefix)]


def _port_faults(host: str, port: int, prefix: str = "ANKISYNCD") -> list[str]:
    """Bind as gunicorn will. `prefix`: of the variables that choose host and port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, ValueError) as exc:  # ValueError: a host name that cannot be one
        reason = getattr(exc, "strerror", None) or str(exc)
        if isinstance(exc, OSError) and exc.errno == errno.EAFNOSUPPORT:
            return [f"this machine has no IPv6: {prefix}_HOST must be 0.0.0.0 and not {host}"]
        if (
            isinstance(exc, ValueError | socket.gaierror)
            or getattr(exc, "errno", None) == errno.EADDRNOTAVAIL
        ):
            cure = f"{prefix}_HOST must be 0.0.0.0, ::, or an address of this machine, without a port"
            return [f"the server cannot listen on {host!r}: {reason} ({cure})"]
        return [f"port {port} of {host} cannot be used: {reason} ({prefix}_PORT chooses another)"]
    return []


def greeting(settings: Settings) -> str:
    """What the operator needs to know first."""
    lines = [
        f"ankisyncd {VERSION} keeps its data in {settings.place}",
        f"In Anki, enter this as the self-hosted sync server: http://{_reachable(settings.host)}:{settings.port}/",
    ]
    if settings.cognito is not None:
        lines.append(f"Users are those of the Cognito user pool {settings.cognito.pool.pool_id}")
    elif settings.cloud is None:
        lines.append("To make a user: ankisyncctl user add NAME")
    return "\n".join([*settings.notes, *lines])


def _reachable(host: str) -> str:
    """An address that other machines can use, where the server listens on all."""
    if host not in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        return _bracketed(host)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks which of our addresses leads out
            return str(probe.getsockname()[0])
    except OSError:  # no way out, or no IPv4
        return "127.0.0.1"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    main()
