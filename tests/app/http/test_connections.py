"""What a connection sees: keep-alive after errors, pipelining, slow clients, large bodies, a stop."""

from __future__ import annotations

import hashlib
import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import zstandard

from tests.app.http.conftest import FAKE
from tests.app.http.wire import Wire, chunked, direct, form, head, header, legacy, packed, wire, with_length
from tests.support import servers
from tests.support.waiting import wait_until

META = {"v": 11}
MIB = 1024 * 1024


def works(client: Wire) -> bool:
    return client.ask(direct("/sync/meta", META)).status == 200


REFUSED = {
    "bad frame": with_length("/sync/meta", b"junk", f"anki-sync: {header()}"),
    "bad header": with_length("/sync/meta", packed(META), "anki-sync: x"),
    "bad key": direct("/sync/meta", META, k="x"),
    "bad json": direct("/sync/meta", b"{"),
    "bad form": legacy("/sync/meta", b"junk"),
    "no wrapping": with_length("/sync/meta", b"POST /sync/meta HTTP/1.1\r\n\r\n"),
    "unknown path": direct("/nowhere", META),
    "unknown method": direct("/sync/nothing", META),
    "wrong http method": direct("/sync/meta", META).replace(b"POST", b"PUT", 1),
    "our bug": direct("/sync/abort", {"fail": "bug"}),
    "store away": direct("/sync/abort", {"fail": "away"}),
    "junk after the frame": with_length(
        "/sync/chunk", packed(1) + b"GET / HTTP/1.1\r\n\r\n", f"anki-sync: {header()}"
    ),
    "bad frame in chunks": b"".join(
        [
            head("/sync/meta", f"anki-sync: {header()}", "transfer-encoding: chunked"),
            b"4\r\njunk\r\n0\r\n\r\n",
        ]
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_after_a_refusal_the_connection_is_in_step_or_said_to_be_closed(client: Wire, name: str) -> None:
    answer = client.ask(REFUSED[name])
    if answer.closes:
        assert client.is_closed_by_server()
    else:
        assert works(client)


def test_an_unread_large_body_ends_the_connection_after_the_answer(client: Wire) -> None:
    client.send(head("/sync/upload", f"anki-sync: {header(k='x')}", f"content-length: {64 * MIB}"))
    client.send(packed(random.Random(1).randbytes(400_000)))
    answer = client.answer()
    assert (answer.status, answer.closes) == (403, True)


def test_a_client_that_sends_on_still_gets_to_read_its_refusal(client: Wire) -> None:
    body = packed(random.Random(1).randbytes(20 * MIB))
    client.send(*chunked("/sync/upload", body, 4096, k="x"))
    assert client.answer().status == 403


def test_pipelined_requests_are_answered_in_order(client: Wire) -> None:
    client.send(b"".join(direct("/sync/meta", {"n": n}) for n in range(20)))
    assert [json.loads(client.answer().unpacked)["got"]["n"] for n in range(20)] == list(range(20))


def test_a_connection_carries_many_requests(client: Wire) -> None:
    assert all(works(client) for _ in range(300))


def test_what_is_no_http_is_refused(client: Wire) -> None:
    answer = client.ask(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    assert (answer.status, answer.body) == (400, b"400")


@pytest.mark.parametrize("bad", [b"xyz\r\n", b"-1\r\n", b"5\r\nabcdefgh\r\n"])
def test_bad_chunks_are_refused(client: Wire, bad: bytes) -> None:
    answer = client.ask(
        head("/sync/meta", f"anki-sync: {header()}", "transfer-encoding: chunked"), bad + b"0\r\n\r\n"
    )
    assert (answer.status, answer.closes) == (400, True)


def test_a_head_that_is_too_large_is_refused(client: Wire) -> None:
    assert client.ask(head("/sync/meta", "anki-sync: " + "x" * 40_000)).status == 400


def test_slow_bodies_do_not_hold_up_others(server: servers.Server, client: Wire) -> None:
    slow = [Wire(server.port) for _ in range(50)]
    body = packed(META)
    for one in slow:
        one.send(head("/sync/meta", f"anki-sync: {header()}", f"content-length: {len(body)}"), body[:5])
    assert works(client)
    for one in slow:
        one.send(body[5:])
        assert one.answer().status == 200
        one.close()


def test_a_client_that_vanishes_in_its_body_leaves_no_error(server: servers.Server, client: Wire) -> None:
    tracebacks = server.log.count("Traceback")
    gone = Wire(server.port)
    gone.send(head("/sync/upload", f"anki-sync: {header()}", "transfer-encoding: chunked"), b"400\r\nabc")
    gone.close()
    assert works(client)
    assert server.log.count("Traceback") == tracebacks


def test_a_large_upload_in_small_chunks_arrives_whole_and_leaves_no_file(
    server: servers.Server, client: Wire
) -> None:
    file = random.Random(2).randbytes(4 * MIB) + bytes(9 * MIB)
    answer = client.ask(*chunked("/sync/upload", packed(file), 4096))
    assert answer.unpacked.decode() == f"{hashlib.sha256(file).hexdigest()} {len(file)}"
    assert list(spool_of(server).iterdir()) == []


@pytest.mark.parametrize(
    ("packed_bytes", "zeros", "place"),
    [(200, 0, "memory"), (3 * MIB, 0, "memory"), (3 * MIB, 2 * MIB, "file"), (5 * MIB, 0, "file")],
)
def test_a_small_zip_stays_in_memory_and_a_large_one_arrives_as_a_file(
    server: servers.Server, client: Wire, packed_bytes: int, zeros: int, place: str
) -> None:
    zipped = random.Random(3).randbytes(packed_bytes) + bytes(zeros)
    answer = client.ask(*chunked("/msync/uploadChanges", packed(zipped), 4096))
    assert json.loads(answer.unpacked) == [place, len(zipped), hashlib.sha256(zipped).hexdigest()]
    assert list(spool_of(server).iterdir()) == []


def test_zips_that_find_no_room_in_memory_arrive_as_files(server: servers.Server) -> None:
    """Twenty clients that stop in the middle hold all of it; it comes back when they have gone."""
    zipped = random.Random(4).randbytes(4 * MIB - 4096)
    *first, last = chunked("/msync/uploadChanges", packed(zipped), 4096)
    sum_of = hashlib.sha256(zipped).hexdigest()
    slow = [Wire(server.port) for _ in range(20)]
    for each in slow:
        each.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # what is sent is read, or nearly
        each.send(*first)
    places = []
    for each in slow:
        place, *rest = json.loads(each.ask(last).unpacked)
        assert rest == [len(zipped), sum_of]
        places.append(place)
        each.close()
    assert {"memory", "file"} == set(places)
    assert list(spool_of(server).iterdir()) == []
    again = Wire(server.port)
    assert json.loads(again.ask(*first, last).unpacked)[0] == "memory"
    again.close()


def spool_of(server: servers.Server) -> Path:
    return server.folder / "ankisyncd" / "spool"


def test_an_upload_over_the_limit_gets_the_text_that_clients_show(
    server: servers.Server, client: Wire
) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(24 * MIB))
    answer = client.ask(with_length("/sync/upload", bomb, f"anki-sync: {header()}"))
    assert (answer.status, answer.unpacked) == (200, b"collection exceeds size limit")
    assert list(spool_of(server).iterdir()) == []


def test_a_message_over_the_limit_is_400(client: Wire) -> None:
    bomb = zstandard.ZstdCompressor().compress(b" " * (24 * MIB))
    assert client.ask(with_length("/sync/meta", bomb, f"anki-sync: {header()}")).status == 400


def test_a_stranger_cannot_make_the_server_unpack_much(client: Wire) -> None:
    bomb = zstandard.ZstdCompressor().compress(b'{"u":"' + b"x" * (2 * MIB))
    answer = client.ask(with_length("/sync/hostKey", bomb, f"anki-sync: {header(k='')}"))
    assert (answer.status, answer.body) == (400, b"400 the message is too large")


def test_a_zip_over_the_limit_is_400(client: Wire) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(24 * MIB))
    assert client.ask(with_length("/msync/uploadChanges", bomb, f"anki-sync: {header()}")).status == 400


def test_a_truncated_upload_is_400(client: Wire) -> None:
    body = packed(random.Random(1).randbytes(2 * MIB))[:-4]
    assert client.ask(with_length("/sync/upload", body, f"anki-sync: {header()}")).status == 400


def test_a_window_that_would_take_much_memory_is_refused(client: Wire) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = packer.compress(b"{}") + packer.flush()
    assert client.ask(with_length("/sync/meta", body, f"anki-sync: {header()}")).status == 400


def test_large_messages_pass_both_ways(client: Wire) -> None:
    message = ["x" * 1000] * 5000
    assert json.loads(client.ask(direct("/sync/applyChunk", message)).unpacked)["got"] == message
    assert len(client.ask(direct("/sync/chunk", 500_000)).unpacked) == 500_000 * 8 + 3


def test_a_download_streams_and_tells_its_size_first(client: Wire) -> None:
    answer = client.ask(direct("/sync/download", {"blocks": 40}))
    assert answer.headers["transfer-encoding"] == "chunked"
    assert int(answer.headers["anki-original-size"]) == 40 * 300_000
    assert answer.unpacked == b"".join(bytes([n]) * 300_000 for n in range(40))
    assert works(client)


def test_a_legacy_download_is_plain_and_has_its_length(client: Wire) -> None:
    answer = client.ask(legacy("/sync/download", form(("k", b"key-of-joe"))))
    assert answer.headers["content-length"] == str(3 * 300_000)
    assert answer.body == b"".join(bytes([n]) * 300_000 for n in range(3))


@pytest.mark.parametrize("lie", [1, -1])
def test_a_download_of_another_size_than_told_never_looks_complete(client: Wire, lie: int) -> None:
    client.send(direct("/sync/download", {"blocks": 5, "lie": lie}))
    with pytest.raises((ValueError, AssertionError)):
        client.answer()


def test_a_disk_that_fails_during_a_download_is_not_called_the_clients_fault(tmp_path: Path) -> None:
    with servers.serving(FAKE, tmp_path / "data", 0, {"ANKISYNCD_WORKERS": "1"}) as server:
        with wire(server.port) as client:
            client.send(direct("/sync/download", {"fail": True}))
            with pytest.raises((ValueError, AssertionError)):
                client.answer()
        wait_for_line(server, "method=download")
        assert "OSError: [Errno 5] Input/output error" in server.log
        assert 'reason="the answer broke off: OSError"' in server.log


def test_a_client_that_stops_reading_a_download_costs_nobody_else(
    server: servers.Server, client: Wire
) -> None:
    lazy = Wire(server.port)
    lazy.send(direct("/sync/download", {"blocks": 2000}))
    assert works(client)
    lazy.close()
    assert works(client)


def test_our_fault_is_500_and_its_traceback_is_logged(server: servers.Server, client: Wire) -> None:
    answer = client.ask(direct("/sync/abort", {"fail": "bug"}))
    assert (answer.status, answer.body) == (500, b"500")
    assert "RuntimeError: a bug of ours" in server.log


def test_a_store_that_is_away_is_503_with_a_time_to_come_back(client: Wire) -> None:
    answer = client.ask(direct("/sync/abort", {"fail": "away"}))
    assert (answer.status, answer.headers["retry-after"]) == (503, "7")


def test_each_request_is_one_line_and_no_secret_is_in_the_log(server: servers.Server, client: Wire) -> None:
    client.ask(direct("/sync/hostKey", {"u": "joe", "p": "secret-password"}, k="", s=""))
    client.ask(direct("/sync/meta", {"quiet": "content"}, s='a"b\nc', c="client 1.0"))
    client.ask(direct("/sync/meta", b"{", k="key-of-zoe"))
    client.ask(head("/msync/begin?k=key-of-joe&v=1", method="GET"))
    client.ask(head("/nowhere?k=key-of-joe"))
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    asked = [line for line in lines if line["event"] == "request" and line["method"] == "meta"][-2:]
    assert [line["status"] for line in asked] == [200, 400]
    assert asked[0] | {"time": "", "ms": 0} == {
        "time": "",
        "level": "info",
        "event": "request",
        "method": "meta",
        "status": 200,
        "ms": 0,
        "user": "joe",
        "client": "client 1.0",
        "session": 'a"b\nc',
        "address": "127.0.0.1",
        "in": asked[0]["in"],
        "out": asked[0]["out"],
        "id": asked[0]["id"],
    }
    assert asked[0]["in"] > 0 < asked[0]["out"]
    assert "secret-password" not in server.log
    assert "key-of-" not in server.log
    assert "quiet" not in server.log


@pytest.mark.slow
def test_memory_does_not_follow_the_size_of_an_upload(server: servers.Server, client: Wire) -> None:
    worker = psutil.Process(server.process.pid).children()[0]
    body = packed(random.Random(2).randbytes(20 * MIB))
    client.ask(*chunked("/sync/upload", body[:-4], 4096))
    before = worker.memory_info().rss
    with wire(server.port) as second:
        second.ask(*chunked("/sync/upload", body, 4096))
    assert worker.memory_info().rss - before < 16 * MIB


class TestStop:
    """SIGTERM: what runs is finished, the rest ends soon."""

    @pytest.fixture
    def stopping(self, tmp_path: Path) -> Iterator[servers.Server]:
        started = servers.start(FAKE, tmp_path / "data", [], {"ANKISYNCD_WORKERS": "1"})
        yield started
        started.stop()

    def test_a_running_request_is_finished(self, stopping: servers.Server) -> None:
        with wire(stopping.port) as busy, wire(stopping.port) as slow:
            body = packed(META)
            slow.send(head("/sync/meta", f"anki-sync: {header()}", f"content-length: {len(body)}"), body[:5])
            busy.send(direct("/sync/sanityCheck2", 1.0))
            assert works_elsewhere(stopping)
            stopping.process.terminate()
            wait_for_line(stopping, "Handling signal: term")
            slow.send(body[5:])
            assert (busy.answer().status, slow.answer().status) == (200, 200)
        assert stopping.stop() == 0
        assert "Traceback" not in stopping.log

    def test_idle_connections_do_not_hold_it_up(self, stopping: servers.Server) -> None:
        with wire(stopping.port) as idle, wire(stopping.port) as fresh:
            assert works(idle)
            assert works_elsewhere(stopping)
            assert stopping.stop() == 0  # and was not killed, which `stop` does after 20 s
            assert idle.is_closed_by_server()
            assert fresh.is_closed_by_server()


def works_elsewhere(server: servers.Server) -> bool:
    with wire(server.port) as other:
        return works(other)


def wait_for_line(server: servers.Server, text: str) -> None:
    wait_until(lambda: text in server.log)


@pytest.mark.parametrize("line", ["SCRIPT_NAME: /x", "X-Forwarded-Proto: https", "X_Forwarded_For: 1.2.3.4"])
def test_headers_of_a_proxy_that_nobody_named_do_nothing(client: Wire, line: str) -> None:
    answer = client.ask(with_length("/sync/meta", packed(META), f"anki-sync: {header()}", line))
    assert answer.status == 200


def test_one_upload_of_a_user_runs_at_a_time(server: servers.Server, client: Wire) -> None:
    file = random.Random(5).randbytes(300_000)
    first, *rest = chunked("/sync/upload", packed(file), 4096)
    half = len(rest) // 2
    with wire(server.port) as slow:
        slow.send(first, *rest[:half])
        wait_until(lambda: list(spool_of(server).iterdir()))
        second = client.ask(direct("/sync/upload", b"x"))
        assert (second.status, second.body) == (409, b"409 another upload of this user is running")
        with wire(server.port) as other:
            assert other.ask(direct("/sync/upload", b"x", k="key-of-ann")).status == 200
        slow.send(*rest[half:])
        assert slow.answer().status == 200
    with wire(server.port) as again:
        assert again.ask(direct("/sync/upload", b"x")).status == 200
