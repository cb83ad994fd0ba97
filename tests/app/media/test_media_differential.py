"""Every media method answers as the official server does: same status, same JSON, same zip."""

import json
import random

import pytest

BEGIN = [
    b'{"v":"anki,25.09 (test),linux"}',
    b'{"v":""}',
    b'{"v":null}',
    b'{"v":1}',
    b"{}",
    b"",
    b"null",
    b"[]",
    b'{"v":"x","unknown":[1,{"a":null}]}',
    b'{"v":"x"} trailing',
    b'{"v":"x"}\n ',
    b'\xef\xbb\xbf{"v":"x"}',
    b'{"v":"\xff"}',
    b'{"v":"\\ud800"}',
    b'{"v":"\\u0000"}',
]

CHANGES = [
    b'{"lastUsn":0}',
    b'{"lastUsn":-1}',
    b'{"lastUsn":-2147483648}',
    b'{"lastUsn":2147483647}',
    b'{"lastUsn":2147483648}',
    b'{"lastUsn":-2147483649}',
    b'{"lastUsn":1.0}',
    b'{"lastUsn":"1"}',
    b'{"lastUsn":null}',
    b'{"lastUsn":true}',
    b'{"lastUsn":1e0}',
    b'{"lastUsn":3,"other":1}',
    b'{"last_usn":1}',
    b"{}",
    b"",
    b"nonsense",
]

SANITY = [
    b'{"local":0}',
    b'{"local":2}',
    b'{"local":3}',
    b'{"local":-1}',
    b'{"local":4294967295}',
    b'{"local":4294967296}',
    b'{"local":2.0}',
    b'{"local":"2"}',
    b"{}",
    b"",
]

DOWNLOADS = [
    b'{"files":[]}',
    b'{"files":["a"]}',
    b'{"files":["b\xc3\xa9.jpg","a"]}',
    b'{"files":["a","a"]}',
    b'{"files":["a","missing"]}',
    b'{"files":["removed"]}',
    b'{"files":[""]}',
    b'{"files":["\\u0000"]}',
    json.dumps({"files": ["a"] * 25}).encode(),
    json.dumps({"files": ["a"] * 26}).encode(),
    json.dumps({"files": ["missing"] * 26}).encode(),
    b'{"files":null}',
    b'{"files":"a"}',
    b'{"files":[1]}',
    b'{"files":[null]}',
    b"{}",
    b"",
]

METAS = [
    b"[]",
    b"{}",
    b"",
    b"null",
    b'[["x","0"]]',
    b'[["x",""]]',
    b'[["x",null]]',
    b'[["x"]]',
    b'[["x","0",1]]',
    b'[[1,"0"]]',
    b'[["x",0]]',
    b'[[null,"0"]]',
    b'[["x","missing"]]',
    b'[["x","_meta"]]',
    b'[["x","0"],["y","0"]]',
    b'[["x","0"],["x","1"]]',
    b'[["x","0"],["x",null]]',
    b'[["x",null],["x","0"]]',
    b'[["x","0"]] trailing',
    b'[["x","0"]]' + b" " * 60_000,
    b'[["x","0"]]' + b" " * 60_000 + b"beyond what is read",
    b" " * 60_000 + b'[["x","0"]]',
    json.dumps([["x", None]] * 25).encode(),
    json.dumps([["x", None]] * 26).encode(),
    b'[["\xff","0"]]',
]

NAMES = [
    "a" * 255,
    "a" * 256,
    "é" * 127,
    "é" * 128,
    "e\u0301",
    "\u212b",
    "\u1100\u1161",
    "日本語.jpg",
    "\U0001f600.png",
    "a/b",
    "/",
    "a\\b",
    "a:b",
    "con",
    "con.txt",
    "trailing.",
    "trailing ",
    " ",
    "\t\n",
    "\x01",
    "\x7f",
    '*?<>|"',
    "_meta",
    "0",
    "-rf",
    "\u202ename",
    "\ufeffname",
]


@pytest.fixture
def both(official, worker):
    """The same request of a new user to both servers."""
    user = official.new_user()

    def request(method, payload):
        return official.request(user, method, payload), worker.request(user, method, payload)

    return request


def assert_alike(both, method, payload):
    theirs, ours = both(method, payload)
    if method == "begin" and theirs[0] == 200:
        assert theirs[1].keys() == ours[1].keys()
        theirs[1].pop("sk"), ours[1].pop("sk")
    assert ours == theirs, f"{method} {payload[:200]!r}"
    return theirs


def test_messages_of_a_new_user_are_answered_alike(both):
    for method, payloads in (("begin", BEGIN), ("mediaChanges", CHANGES), ("mediaSanity", SANITY)):
        for payload in payloads:
            assert_alike(both, method, payload)
    for payload in DOWNLOADS:
        assert_alike(both, "downloadFiles", payload)


def test_messages_of_a_user_with_media_are_answered_alike(both, make_zip):
    assert_alike(both, "uploadChanges", make_zip(("a", b"1"), ("bé.jpg", b"22"), ("removed", b"3")))
    assert_alike(both, "uploadChanges", make_zip(("removed", None)))
    for method, payloads in (("begin", BEGIN), ("mediaChanges", CHANGES), ("mediaSanity", SANITY)):
        for payload in payloads:
            assert_alike(both, method, payload)
    for payload in DOWNLOADS:
        assert_alike(both, "downloadFiles", payload)


def test_lists_of_uploaded_files_are_answered_alike(both, make_zip):
    statuses = set()
    for meta in METAS:
        statuses.add(assert_alike(both, "uploadChanges", make_zip(("", b"1"), ("", b"2"), meta=meta))[0])
        assert_alike(both, "mediaChanges", b'{"lastUsn":0}')
    assert statuses == {200, 400}


def test_file_names_are_taken_or_refused_alike(both, make_zip):
    for name in NAMES:
        status, _ = assert_alike(both, "uploadChanges", make_zip((name, name.encode())))
        if status == 200:
            assert_alike(both, "downloadFiles", json.dumps({"files": [name]}).encode())
        assert_alike(both, "uploadChanges", make_zip((name, None)))
    assert_alike(both, "mediaChanges", b'{"lastUsn":0}')


def test_removing_files_with_impossible_names_does_nothing_on_both(both, make_zip):
    for name in ("", ".", "..", "a\0b"):
        assert_alike(both, "uploadChanges", make_zip((name, None)))


def test_what_is_no_zip_is_refused_alike(both, make_zip):
    good = make_zip(("a", b"content of a file"))
    for payload in (
        b"",
        b"PK",
        b"no zip at all",
        good[:-1],
        good[: len(good) // 2],
        good.replace(b"content of", b"CONTENT OF"),
        make_zip(("a", b"")),
        make_zip(),
    ):
        assert_alike(both, "uploadChanges", payload)
    assert_alike(both, "uploadChanges", b"junk before" + good)
    assert_alike(both, "mediaChanges", b'{"lastUsn":0}')


def test_a_deflated_zip_is_taken_alike(both, make_zip):
    assert_alike(both, "uploadChanges", make_zip(("a", b"x" * 10_000), method=8))
    assert_alike(both, "downloadFiles", b'{"files":["a"]}')


def test_a_zip_packed_in_another_way_is_refused_alike(both, make_zip):
    for method in (12, 14):
        assert_alike(both, "uploadChanges", make_zip(("a", b"x" * 10_000), method=method))


def test_downloads_stop_at_the_same_file(both, make_zip):
    sizes = [1_000_000, 1_621_440, 1, 5]  # the first two are 2.5 MiB exactly
    names = [f"{number}" for number in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        assert_alike(both, "uploadChanges", make_zip((name, name.encode() * size)))
    for files in (names, names[::-1], [names[1], names[1], "missing"], [names[1], "missing"]):
        assert_alike(both, "downloadFiles", json.dumps({"files": files}).encode())


def test_changes_are_listed_in_the_same_pages(both, make_zip):
    for start in range(0, 1050, 25):
        assert_alike(both, "uploadChanges", make_zip(*((f"{n}", b"x") for n in range(start, start + 25))))
    last_usn = 0
    while page := assert_alike(both, "mediaChanges", json.dumps({"lastUsn": last_usn}).encode())[1]:
        last_usn = page[-1][1]
    assert last_usn == 1050


@pytest.mark.parametrize("seed", range(12))
def test_a_random_walk_is_answered_alike(both, make_zip, seed):
    chance = random.Random(seed)
    names = [f"file{number}é.jpg" for number in range(8)]
    contents = [b"x", b"yy", b"zzz" * 100, None]
    for _ in range(25):
        match chance.randrange(5):
            case 0 | 1:
                picked = [(chance.choice(names), chance.choice(contents)) for _ in range(chance.randrange(6))]
                assert_alike(both, "uploadChanges", make_zip(*picked))
            case 2:
                files = chance.choices(names, k=chance.randrange(4))
                assert_alike(both, "downloadFiles", json.dumps({"files": files}).encode())
            case 3:
                assert_alike(both, "mediaSanity", json.dumps({"local": chance.randrange(6)}).encode())
                assert_alike(both, "begin", b'{"v":"x"}')
            case 4:
                assert_alike(both, "mediaChanges", json.dumps({"lastUsn": chance.randrange(30)}).encode())
    assert_alike(both, "mediaChanges", b'{"lastUsn":0}')
