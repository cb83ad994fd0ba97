"""CPU and memory of a server's process tree, and a counting TCP proxy."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections import Counter

import psutil


def _cpu_clock(pid: int) -> float:
    """CPU seconds of one process (all threads, also ended ones), in nanosecond steps."""
    return time.clock_gettime((~pid << 3) | 2)


class Tree:
    """The process tree below a server's root process."""

    def __init__(self, pid: int) -> None:
        self.root = psutil.Process(pid)

    def _members(self) -> list[psutil.Process]:
        return [self.root, *self.root.children(recursive=True)]

    def cpu(self) -> float:
        total = 0.0
        for proc in self._members():
            with contextlib.suppress(psutil.Error, OSError):
                ended = proc.cpu_times()
                total += _cpu_clock(proc.pid) + ended.children_user + ended.children_system
        return total

    def rss(self) -> int:
        total = 0
        for proc in self._members():
            with contextlib.suppress(psutil.Error):
                total += proc.memory_info().rss
        return total

    def pss(self) -> int:
        """Like rss, with pages shared between workers counted once."""
        total = 0
        for proc in self._members():
            with contextlib.suppress(psutil.Error, AttributeError):
                total += proc.memory_full_info().pss
        return total


class Meter:
    """Context manager: wall time, server and client CPU, peak server memory."""

    def __init__(self, tree: Tree | None, *, memory: bool = True) -> None:
        self.tree, self.memory = tree, memory and tree is not None
        self.wall = self.server_cpu = self.client_cpu = 0.0
        self.begin_rss = self.peak_rss = 0

    def __enter__(self) -> Meter:
        if self.memory:
            self.begin_rss = self.tree.rss()
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        self._client = time.process_time()
        self._server = self.tree.cpu() if self.tree else 0.0
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_exc) -> None:
        self.wall = time.perf_counter() - self._start
        self.server_cpu = self.tree.cpu() - self._server if self.tree else 0.0
        self.client_cpu = time.process_time() - self._client
        if self.memory:
            self.begin_rss = self.tree.rss()
            self._stop.set()
            self._thread.join()
            self.peak_rss = max(self.peak_rss, self.tree.rss())

    def _sample(self) -> None:
        while not self._stop.is_set():
            self.peak_rss = max(self.peak_rss, self.tree.rss())
            self._stop.wait(0.02)


class CountingProxy:
    """Passes TCP through unchanged and counts the sync requests and bytes it sees."""

    PATTERN = re.compile(rb"(?:POST|GET) /\S*?(m?sync/\w+)\S* HTTP/1\.1\r\n")

    def __init__(self, host: str, port: int) -> None:
        self.upstream = (host, port)
        self.requests: Counter[str] = Counter()
        self.bytes = {"up": 0, "down": 0}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.upstream)
            for args in ((client, server, "up"), (server, client, "down")):
                args[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=args, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        tail = b""
        try:
            while data := source.recv(1 << 16):
                self.bytes[way] += len(data)
                if way == "up":
                    text = tail + data
                    end = 0
                    for match in self.PATTERN.finditer(text):
                        self.requests[match[1].decode()] += 1
                        end = match.end()
                    tail = text[max(end, len(text) - 200) :]
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for sock in (source, sink):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
