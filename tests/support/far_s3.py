"""A bucket far away: PUT, GET and HEAD of objects in memory, with latency and a limit to each stream's rate.

    with far_s3(latency_s=0.02, bytes_per_s=50e6) as (endpoint, flights):
        ...
        assert flights.most["GET"] >= 4

It costs less than moto, so that the times measured are those of the client.
`python -m tests.support.far_s3 LATENCY_MS BYTES_PER_S` prints its address, and ends with its input.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

DATE = "Fri, 02 Jan 2026 03:04:05 GMT"
BLOCK = 64 << 10


class Flights:
    """How many requests of each method there were, and how many of them at once."""

    def __init__(self) -> None:
        self.all: Counter[str] = Counter()
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    def clear(self) -> None:
        self.all.clear()
        self.most.clear()

    def begin(self, method: str) -> None:
        self.all[method] += 1
        self.now[method] += 1
        self.most[method] = max(self.most[method], self.now[method])

    def end(self, method: str) -> None:
        self.now[method] -= 1


class FarS3:
    def __init__(self, latency_s: float, bytes_per_s: float | None) -> None:
        self.latency_s, self.bytes_per_s = latency_s, bytes_per_s
        self.objects: dict[str, bytes] = {}
        self.flights = Flights()
        self.writers: set[asyncio.StreamWriter] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.writers.add(writer)
        return self.serve(reader, writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()
            self.writers.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        method, path, _ = line.split()
        self.flights.begin(method)
        try:
            if headers.get("expect"):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            await asyncio.sleep(self.latency_s)
            head, answer = self._answer_of(method, unquote(path), headers, body)
            writer.write(head)
            for at in range(0, len(answer), BLOCK):
                writer.write(answer[at : at + BLOCK])
                await writer.drain()
                if self.bytes_per_s:
                    await asyncio.sleep(BLOCK / self.bytes_per_s)
        finally:
            self.flights.end(method)

    def _answer_of(self, method, path, headers, body) -> tuple[bytes, bytes]:
        if method == "PUT":
            self.objects[path] = body
            return _head("200 OK", 0, etag=hashlib.md5(body).hexdigest()), b""
        found = self.objects.get(path)
        if found is None:
            error = b"" if method == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>"
            return _head("404 Not Found", len(error)), error
        told = {"etag": hashlib.md5(found[:100]).hexdigest(), "last-modified": DATE}
        if method == "HEAD":
            return _head("200 OK", len(found), **told), b""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if wanted is None:
            return _head("200 OK", len(found), **told), found
        start, end = int(wanted[1]), min(int(wanted[2] or len(found)), len(found) - 1)
        told["content-range"] = f"bytes {start}-{end}/{len(found)}"
        part = found[start : end + 1]
        return _head("206 Partial Content", len(part), **told), part


def _head(status: str, length: int, **headers: str) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{lines}\r\n".encode()


@contextmanager
def far_s3(latency_s: float = 0, bytes_per_s: float | None = None) -> Iterator[tuple[str, Flights]]:
    """Its address, and what is in flight there. It runs in a thread of this process."""
    far = FarS3(latency_s, bytes_per_s)
    loop = asyncio.new_event_loop()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(far.connected, "127.0.0.1", 0, limit=1 << 20)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        ours = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)
        for writer in far.writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # the loop closes their sockets

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", far.flights
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


if __name__ == "__main__":
    with far_s3(float(sys.argv[1]) / 1000, float(sys.argv[2])) as (address, _):
        print(address, flush=True)
        sys.stdin.read()
