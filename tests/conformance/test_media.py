"""Media files: names, replacements, deletions, and many of them."""

from __future__ import annotations

import unicodedata

import pytest

from tests.conformance.conftest import Make
from tests.conformance.device import NEWEST, ClientError, Device
from tests.support.proxy import Exchange, Fault, Proxy
from tests.support.servers import Server, User

NEWEST_ONLY = pytest.mark.parametrize("versions", [(NEWEST, NEWEST)], ids=["newest"])
NAMES = [
    "plain.jpg",
    "ümläut & spaces.png",
    "日本語の音.mp3",
    "Ελληνικά.ogg",
    "emoji \U0001f600\U0001f1e9\U0001f1ea.gif",
    "ﬁ ligature.txt",
    "percent%20encoded.txt",
    "quote'quote.txt",
    "no extension",
    "_leading.css",
    "x" * 100 + ".txt",
    "한국어.webp",
]


def converge_media(*devices: Device) -> None:
    for device in (*devices, *devices[:-1]):
        device.sync_media()


def test_files_with_unusual_names_travel_both_ways(pair: tuple[Device, Device]) -> None:
    a, b = pair
    for number, name in enumerate(NAMES):
        (a if number % 2 else b).write_media(unicodedata.normalize("NFC", name), 100 + number, "v1")
    converge_media(a, b)
    assert a.media() == b.media()
    assert {entry[0] for entry in a.media()} == {unicodedata.normalize("NFC", name) for name in NAMES}


def test_replaced_files_travel(pair: tuple[Device, Device]) -> None:
    a, b = pair
    a.write_media("sound.mp3", 5000, "v1")
    converge_media(a, b)
    for round_, (sender, receiver) in enumerate(((a, b), (b, a), (a, b))):
        sender.write_media("sound.mp3", 5000, f"round {round_}")
        sender.touch_file("sound.mp3")
        converge_media(sender, receiver)
        assert a.media() == b.media()


def test_deleted_files_vanish_and_can_come_back(pair: tuple[Device, Device]) -> None:
    a, b = pair
    for name in ("one.txt", "two.txt", "three.txt"):
        a.write_media(name, 50, "v1")
    converge_media(a, b)
    b.remove_media("two.txt")
    converge_media(b, a)
    assert [entry[0] for entry in a.media()] == ["one.txt", "three.txt"]
    a.write_media("two.txt", 70, "again")
    converge_media(a, b)
    assert a.media() == b.media()
    assert len(b.media()) == 3


def test_a_file_added_on_both_devices_ends_the_same(pair: tuple[Device, Device]) -> None:
    a, b = pair
    a.write_media("same.txt", 50, "equal")
    b.write_media("same.txt", 50, "equal")
    a.write_media("other.txt", 50, "of a")
    b.write_media("other.txt", 50, "of b")
    converge_media(a, b)
    converge_media(a, b)
    assert a.media() == b.media()


def test_a_file_deleted_here_and_changed_there_ends_the_same(pair: tuple[Device, Device]) -> None:
    a, b = pair
    a.write_media("contested.txt", 50, "v1")
    converge_media(a, b)
    a.remove_media("contested.txt")
    b.write_media("contested.txt", 60, "v2")
    b.touch_file("contested.txt")
    converge_media(a, b)
    converge_media(a, b)
    assert a.media() == b.media()


def test_more_than_a_thousand_files_travel(fresh_pair: tuple[Device, Device]) -> None:
    a, b = fresh_pair
    a.write_many("file", 1_100, 300)
    a.sync_media()
    b.sync_media()
    assert len(b.media()) == 1_100
    assert a.media() == b.media()
    b.write_media("file00500.bin", 400, "changed")
    b.touch_file("file00500.bin")
    b.remove_media("file00501.bin")
    converge_media(b, a)
    assert a.media() == b.media()


def test_large_files_travel(fresh_pair: tuple[Device, Device]) -> None:
    a, b = fresh_pair
    a.write_media("one byte", 1, "1")
    for number in range(4):
        a.write_media(f"large{number}.mp4", 3_000_000 + number, "film")
    a.write_media("larger.mp4", 30_000_000, "film")
    converge_media(a, b)
    assert a.media() == b.media()


@NEWEST_ONLY
@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_ANSWER], ids=lambda f: f.value)
@pytest.mark.parametrize("step", ["begin", "mediaChanges", "uploadChanges", "downloadFiles", "mediaSanity"])
def test_a_media_sync_that_is_cut_off_goes_on_later(
    fresh_pair: tuple[Device, Device], server: Server, step: str, fault: Fault
) -> None:
    a, b = fresh_pair
    b.write_many("from b", 30, 40)
    b.sync_media()
    a.write_many("from a", 60, 40)
    seen: list[str] = []

    def fate(exchange: Exchange) -> Fault:
        seen.append(exchange.method)
        # the second of its kind, if there are several
        last = {"uploadChanges": 2, "downloadFiles": 2}.get(step, 1)
        return fault if exchange.method == step and seen.count(step) == last else Fault.NONE

    with Proxy([server.port], fate=fate) as proxy:
        a.endpoint(proxy.url)
        with pytest.raises(ClientError):
            a.sync_media()
        assert step in seen
    a.endpoint(server.url)
    converge_media(a, b)
    assert a.media() == b.media()
    assert len(a.media()) == 90


@NEWEST_ONLY
def test_media_and_collection_sync_at_the_same_time(
    pair: tuple[Device, Device], make_device: Make, user: User
) -> None:
    a, b = pair
    c = make_device(user)
    c.write_many("meanwhile", 300, 2_000)
    c.begin("sync_media")
    for i in range(5):
        a.add_notes([[f"meanwhile {i}", ""]])
        a.settle()
        b.settle()
    c.driver.receive()
    b.sync_media()
    assert b.media() == c.media()
