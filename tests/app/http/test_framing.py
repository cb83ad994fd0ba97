"""The two wrappings, said byte by byte to a running server."""

from __future__ import annotations

import gzip
import hashlib
import json
import random

import pytest

from tests.app.http import wire
from tests.app.http.wire import Wire, chunked, direct, form, head, header, legacy, packed, with_length

META = {"v": 11, "cv": "anki,25.09,linux"}


def reply(answer: wire.Answer) -> dict[str, object]:
    """The JSON of a version 11 answer, with its promises checked."""
    assert answer.status == 200, answer
    assert "content-type" not in answer.headers
    assert "content-encoding" not in answer.headers
    payload = answer.unpacked
    assert int(answer.headers["anki-original-size"]) == len(payload)
    return json.loads(payload)


def plain(answer: wire.Answer) -> dict[str, object]:
    """The JSON of a legacy answer."""
    assert answer.status == 200, answer
    assert "anki-original-size" not in answer.headers
    return json.loads(answer.body)


def test_a_request_reaches_its_service_and_the_answer_is_packed(client: Wire) -> None:
    got = reply(client.ask(direct("/sync/meta", META)))
    assert got == {"user": "joe", "method": "meta", "skey": "sess", "version": 11, "got": META}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
def test_chunks_of_any_size_make_the_same_request(client: Wire, size: int) -> None:
    assert reply(client.ask(b"".join(chunked("/sync/meta", packed(META), size))))["got"] == META


@pytest.mark.parametrize("size", [1, 5, 64])
def test_a_request_may_arrive_in_any_pieces(client: Wire, size: int) -> None:
    whole = b"".join(chunked("/sync/meta", packed(META), 9))
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert reply(client.ask(*pieces))["got"] == META


@pytest.mark.parametrize("rest", [b"junk", b"\0", packed({"second": "frame"})])
def test_whatever_follows_the_first_frame_is_ignored(client: Wire, rest: bytes) -> None:
    body = packed(META) + rest
    assert reply(client.ask(with_length("/sync/meta", body, f"anki-sync: {header()}")))["got"] == META


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        packed(META)[:-1],
        packed(META)[:9],
        b"\x28\xb5\x2f\xfd",
        b"\x28\xb5\x2f\xfd" + b"\xff" * 40,
    ],
    ids=["empty", "not-zstd", "one-byte-short", "half", "only-magic", "broken"],
)
def test_a_body_that_is_no_whole_frame_is_refused(client: Wire, body: bytes) -> None:
    answer = client.ask(with_length("/sync/meta", body, f"anki-sync: {header()}"))
    assert answer.status == 400
    assert answer.body.startswith(b"400")
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "[]",
        "null",
        '{"v":11}',
        header(k=None),
        header(c=None),
        header(s=None),
        header(v=None),
        header(v="11"),
        header(v=11.0),
        header(v=-1),
        header(v=256),
        header(v=7),
        header(v=12),
        header(v=0),
        header(v=None)[:-1] + ', "v": 99999999999999999999}',
        header(k=1),
        header(s=None)[:-1] + ', "s": null}',
        header() + "x",
        header(c="\xe9").encode().decode("unicode_escape"),
    ],
)
def test_a_malformed_header_is_refused_before_the_key_is_looked_at(client: Wire, value: str) -> None:
    assert client.ask(with_length("/sync/meta", packed(META), f"anki-sync: {value}")).status == 400


def test_unknown_keys_of_the_header_are_ignored(client: Wire) -> None:
    assert reply(client.ask(direct("/sync/meta", META, future="x")))["user"] == "joe"


@pytest.mark.parametrize("version", [8, 9, 10])
def test_a_packed_request_of_an_older_version_gets_a_plain_answer(client: Wire, version: int) -> None:
    assert plain(client.ask(direct("/sync/meta", META, v=version)))["version"] == version


def test_a_bad_key_counts_before_bad_json(client: Wire) -> None:
    assert client.ask(direct("/sync/meta", b"no json", k="nobody")).status == 403


def test_a_bad_frame_counts_before_a_bad_key(client: Wire) -> None:
    assert client.ask(with_length("/sync/meta", b"x", f"anki-sync: {header(k='nobody')}")).status == 400


def test_login_needs_no_key_and_gives_one(client: Wire) -> None:
    login = {"u": "joe", "p": "secret-password"}
    assert reply(client.ask(direct("/sync/hostKey", login, k="")))["key"] == "key-of-joe"


@pytest.mark.parametrize("login", [{}, {"u": "joe"}, {"u": 1, "p": "x"}, [], b"", b"{"])
def test_a_login_that_cannot_be_read_is_400(client: Wire, login: object) -> None:
    assert client.ask(direct("/sync/hostKey", login, k="")).status == 400


def test_a_wrong_password_is_403(client: Wire) -> None:
    assert client.ask(direct("/sync/hostKey", {"u": "joe", "p": "x"}, k="")).status == 403


class TestForms:
    def test_fields_may_come_in_any_order(self, client: Wire) -> None:
        fields = [
            ("data", gzip.compress(json.dumps(META).encode(), mtime=0)),
            ("c", b"1"),
            ("k", b"key-of-joe"),
            ("s", b"sess"),
            ("unknown", b"x"),
        ]
        for seed in range(5):
            random.Random(seed).shuffle(fields)
            got = plain(client.ask(legacy("/sync/meta", form(*fields))))
            assert got == {"user": "joe", "method": "meta", "skey": "sess", "version": 10, "got": META}

    @pytest.mark.parametrize("as_files", [True, False])
    @pytest.mark.parametrize(
        ("c", "data"),
        [
            (None, b'{"a":1}'),
            (b"0", b'{"a":1}'),
            (b"1", gzip.compress(b'{"a":1}', mtime=0)),
            (b"", gzip.compress(b'{"a":1}', mtime=0)),
            (b"no", gzip.compress(b'{"a":1}', mtime=0) + b"rest"),
        ],
    )
    def test_the_field_c_says_whether_the_data_is_gzipped(
        self, client: Wire, c: bytes | None, data: bytes, *, as_files: bool
    ) -> None:
        fields = [("k", b"key-of-joe"), ("data", data)] + ([] if c is None else [("c", c)])
        assert plain(client.ask(legacy("/sync/meta", form(*fields, as_files=as_files))))["got"] == {"a": 1}

    @pytest.mark.parametrize("fields", [[], [("data", b"")], [("data", b""), ("c", b"1")]])
    def test_absent_or_empty_data_stands_for_an_empty_object(
        self, client: Wire, fields: list[tuple[str, bytes]]
    ) -> None:
        assert plain(client.ask(legacy("/sync/meta", form(("k", b"key-of-joe"), *fields))))["got"] == {}

    def test_the_key_may_be_called_sk(self, client: Wire) -> None:
        assert plain(client.ask(legacy("/sync/meta", form(("sk", b"key-of-ann")))))["user"] == "ann"

    def test_of_a_repeated_field_the_last_counts(self, client: Wire) -> None:
        body = form(("k", b"bad"), ("data", b"bad"), ("sk", b"key-of-ann"), ("data", b'{"a":1}'))
        got = plain(client.ask(legacy("/sync/meta", body)))
        assert (got["user"], got["got"]) == ("ann", {"a": 1})

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"junk",
            form(("k", b"key-of-joe"), ending=b""),
            form(("k", b"key-of-joe"))[:-40],
            f"--{wire.BOUNDARY}\r\n\r\nno disposition\r\n--{wire.BOUNDARY}--\r\n".encode(),
            form(("k", b"key-of-joe"), ("c", b"1"), ("data", b"not gzip")),
            form(("k", b"key-of-joe"), ("c", b"1"), ("data", gzip.compress(b"{}")[:-9])),
            form(("k", b"x" * 100_000)),
        ],
    )
    def test_a_form_that_cannot_be_read_is_400(self, client: Wire, body: bytes) -> None:
        assert client.ask(legacy("/sync/meta", body)).status == 400

    @pytest.mark.parametrize(
        "content_type",
        [
            None,
            "application/json",
            "multipart/form-data",
            "multipart/mixed; boundary=x",
            "multipart/form-data; boundary=",
        ],
    )
    def test_without_a_header_and_a_form_it_is_400(self, client: Wire, content_type: str | None) -> None:
        lines = [] if content_type is None else [f"content-type: {content_type}"]
        assert client.ask(with_length("/sync/meta", form(("k", b"key-of-joe")), *lines)).status == 400

    def test_the_header_counts_before_the_content_type(self, client: Wire) -> None:
        lines = [f"content-type: multipart/form-data; boundary={wire.BOUNDARY}", f"anki-sync: {header()}"]
        assert reply(client.ask(with_length("/sync/meta", packed(META), *lines)))["got"] == META

    def test_a_file_in_a_form_arrives_byte_for_byte(self, client: Wire) -> None:
        file = random.Random(3).randbytes(3_000_000) + b"\r\n--Anki" + b"\r\n" * 50 + b"\r"
        for c, data in ((b"0", file), (b"1", gzip.compress(file, 1))):
            body = form(("data", data), ("k", b"key-of-joe"), ("c", c), as_files=True)
            answer = client.ask(legacy("/sync/upload", body))
            assert answer.body.decode() == f"{hashlib.sha256(file).hexdigest()} {len(file)}"

    def test_a_form_over_the_limit_is_400_and_the_connection_ends(self, client: Wire) -> None:
        size = 8 * 1024 * 1024
        answer = client.ask(
            head(
                "/sync/upload",
                f"content-length: {size + 1}",
                f"content-type: multipart/form-data; boundary={wire.BOUNDARY}",
            )
        )
        assert (answer.status, answer.closes) == (400, True)

    def test_a_chunked_form_over_the_limit_is_400_and_the_connection_ends(self, client: Wire) -> None:
        body = form(("k", b"key-of-joe"), ("data", bytes(9 * 1024 * 1024)))
        head_bytes = head(
            "/sync/upload",
            "transfer-encoding: chunked",
            f"content-type: multipart/form-data; boundary={wire.BOUNDARY}",
        )
        answer = client.ask(head_bytes, *wire.chunks(body, 65536))
        assert (answer.status, answer.closes) == (400, True)


class TestBeginByQuery:
    def test_it_answers_plainly(self, client: Wire) -> None:
        got = plain(client.ask(head("/msync/begin?k=key-of-joe&v=anki%2C2.1", method="GET")))
        assert got == {"data": ["joe", "begin", {"v": "anki,2.1"}], "err": ""}

    @pytest.mark.parametrize("query", ["", "?k=key-of-joe", "?v=1", "?k=&", "?v=1&x=2"])
    def test_without_key_or_version_it_is_400(self, client: Wire, query: str) -> None:
        assert client.ask(head(f"/msync/begin{query}", method="GET")).status == 400

    def test_a_wrong_key_is_403(self, client: Wire) -> None:
        assert client.ask(head("/msync/begin?k=x&v=1", method="GET")).status == 403

    def test_the_version_in_a_form_stands_for_the_payload(self, client: Wire) -> None:
        body = form(("k", b"key-of-joe"), ("v", b"2.1"), ("data", b"whatever"))
        assert plain(client.ask(legacy("/msync/begin", body)))["data"] == ["joe", "begin", {"v": "2.1"}]


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        ["/sync/meta", "//sync/meta", "/sync/sync/meta", "/a/b/sync/meta", "/sync//meta", "/msync/sync/meta"],
    )
    def test_all_spellings_of_a_method_are_known(self, client: Wire, path: str) -> None:
        assert reply(client.ask(direct(path, META)))["method"] == "meta"

    @pytest.mark.parametrize("path", ["/health", "/prefix/health"])
    def test_health_is_an_empty_200(self, client: Wire, path: str) -> None:
        answer = client.ask(head(path, method="GET"))
        assert (answer.status, answer.body) == (200, b"")

    @pytest.mark.parametrize(
        "path", ["/", "/x", "/sync", "/sync/", "/sync/meta/", "/sync/meta/x", "/metrics"]
    )
    def test_an_unknown_path_is_404(self, client: Wire, path: str) -> None:
        assert client.ask(direct(path, META)).status == 404

    @pytest.mark.parametrize("path", ["/sync/nothing", "/msync/meta", "/sync/begin", "/sync/META"])
    def test_an_unknown_method_is_400_and_lists_those_there_are(self, client: Wire, path: str) -> None:
        answer = client.ask(direct(path, META))
        assert answer.status == 400
        assert b"expected one of `" in answer.body

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("GET", "/sync/meta", {"POST"}),
            ("PUT", "/sync/upload", {"POST"}),
            ("OPTIONS", "/sync/meta", {"POST"}),
            ("POST", "/health", {"GET", "HEAD"}),
            ("DELETE", "/msync/begin", {"GET", "HEAD", "POST"}),
            ("GET", "/msync/mediaChanges", {"POST"}),
        ],
    )
    def test_the_wrong_http_method_is_405_and_says_which_is_right(
        self, client: Wire, method: str, path: str, allowed: set[str]
    ) -> None:
        answer = client.ask(head(path, method=method))
        assert answer.status == 405
        assert set(answer.headers["allow"].replace(" ", "").split(",")) == allowed

    @pytest.mark.parametrize("host", ["anki_sync:27702", "", "[::1]:1", "x y", "\xe9"])
    def test_whatever_host_the_client_thinks_it_talks_to(self, client: Wire, host: str) -> None:
        request = direct("/sync/meta", META).replace(b"host: anki", b"host: " + host.encode("latin-1"))
        assert reply(client.ask(request))["method"] == "meta"

    def test_head_of_health_has_no_body(self, client: Wire) -> None:
        client.send(head("/health", method="HEAD"), head("/health", method="GET"))
        assert client.answer(has_body=False).status == 200
        assert client.answer().status == 200
