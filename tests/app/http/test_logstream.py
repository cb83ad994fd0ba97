"""A log that cannot be written fails and holds up nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.config import LogFormat
from app.http.accesslog import LineFormatter
from app.http.logstream import LogStream, LogText
from tests.app.http.wire import direct, wire
from tests.support import servers
from tests.support.waiting import wait_until


def note(count: int) -> bytes:
    return b"lost %d\n" % count


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def test_a_line_goes_out_as_it_is(pipe: tuple[int, int]) -> None:
    LogStream(pipe[1], note).write(b"a line\n")
    assert os.read(pipe[0], 100) == b"a line\n"


def test_a_full_pipe_loses_lines_and_says_so_later(pipe: tuple[int, int]) -> None:
    stream = LogStream(pipe[1], note)
    line = b"x" * 4095 + b"\n"
    while not stream.lost:
        stream.write(line)
    stream.write(line)
    assert stream.lost == 2
    taken = len(os.read(pipe[0], 1 << 20))
    assert taken % len(line) == 0
    stream.write(b"again\n")
    assert os.read(pipe[0], 100) == b"lost 2\nagain\n"


def test_a_long_line_that_is_cut_ends_before_the_next_begins(pipe: tuple[int, int]) -> None:
    stream = LogStream(pipe[1], note)
    stream.write(b"y" * (1 << 20) + b"\n")
    assert stream.lost == 1
    assert set(os.read(pipe[0], 1 << 20)) == {ord("y")}
    stream.write(b"next\n")
    assert os.read(pipe[0], 100) == b"\nlost 1\nnext\n"


def test_a_pipe_without_reader_a_full_disk_and_a_closed_descriptor_raise_nothing(
    pipe: tuple[int, int],
) -> None:
    os.close(pipe[0])
    full = os.open("/dev/full", os.O_WRONLY)
    for descriptor in (pipe[1], full, 10_000):
        stream = LogStream(descriptor, note)
        stream.write(b"a\n")
        stream.write(b"b\n")
        assert stream.lost == 2
    os.close(full)


def test_what_is_printed_on_standard_error_is_a_line_too(pipe: tuple[int, int]) -> None:
    print("caf\xe9 \ud800", file=LogText(LogStream(pipe[1], note)))
    assert os.read(pipe[0], 100) == b"caf\xc3\xa9 \\ud800\n"


class Started:
    """`ankisyncd` with standard output as a test wants it."""

    def __init__(self, folder: Path, stdout: int | None, *words: str) -> None:
        self.port = servers.free_port()
        env = servers.environment([servers.User("joe", "pw")], folder, self.port, {"ANKISYNCD_WORKERS": "1"})
        command = [*words, sys.executable, "-m", "app.cli.server"]
        self.process = subprocess.Popen(
            command, env=env, cwd=servers.REPOSITORY, stdout=stdout, stderr=stdout, start_new_session=True
        )
        wait_until(lambda: self.process.poll() is not None or self.is_healthy())
        assert self.process.poll() is None

    def is_healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def statuses(self, count: int) -> set[int]:
        """Of requests on one kept connection."""
        with wire(self.port) as client:
            return {client.ask(direct("/sync/meta", {"v": 11}, k="x")).status for _ in range(count)}

    def workers(self) -> list[int]:
        return sorted(child.pid for child in psutil.Process(self.process.pid).children())

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


@pytest.mark.parametrize("kind", ["no reader", "full disk", "closed"])
def test_requests_go_on_when_standard_output_cannot_be_written(tmp_path: Path, kind: str) -> None:
    read, write = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    if kind == "closed":
        # Standard files that are closed, as some starters leave them.
        started = Started(tmp_path / "data", None, "/bin/sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-')
    else:
        started = Started(tmp_path / "data", write if kind == "no reader" else full)
    os.close(write)
    os.close(read)
    try:
        assert started.statuses(20) == {403}
        assert started.is_healthy()
    finally:
        assert started.stop() == 0
        os.close(full)


def test_requests_go_on_when_nothing_reads_standard_output_any_more(tmp_path: Path) -> None:
    read, write = os.pipe()
    started = Started(tmp_path / "data", write)
    try:
        assert started.statuses(2000) == {403}  # far more than a pipe holds
    finally:
        assert started.stop() == 0
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGPIPE", "SIGTTOU", "SIGTTIN", "SIGWINCH"])
def test_signals_of_a_terminal_end_and_restart_nothing(tmp_path: Path, name: str) -> None:
    with servers.serving(servers.OURS, tmp_path / "data", 0, {"ANKISYNCD_WORKERS": "2"}) as server:
        main = psutil.Process(server.process.pid)
        wait_until(lambda: len(main.children()) == 2)  # the server answers as soon as its first worker does
        before = sorted(child.pid for child in main.children())
        with wire(server.port) as client:
            assert client.ask(direct("/sync/meta", {}, k="x")).status == 403
            os.killpg(server.process.pid, getattr(signal, name))
            time.sleep(0.3)  # as long as a reload would take to begin
            assert client.ask(direct("/sync/meta", {}, k="x")).status == 403
        assert sorted(child.pid for child in main.children()) == before
        assert "Hang up" not in server.log


def test_lost_lines_are_told_in_the_style_of_the_log() -> None:
    line = json.loads(LineFormatter(LogFormat.JSON).lost(3))
    assert (line["event"], line["count"], line["level"]) == ("lines of the log were lost", 3, "warning")
