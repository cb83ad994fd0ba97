"""Servers of a cluster that are killed in a sync, and empty ones in their places; what the store then holds.

A server acts on the world by its calls to AWS and by its answers, and by nothing else: a death anywhere
is a death before or after one of those, and each of them is tried. The store is read by a device that
has nothing. What a client saw succeed is there; what it saw fail is there as a whole, which needs a
death between commit and answer, or not at all; its next sync succeeds, and both sides are equal.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conformance.device import NEWEST, ClientError, Device, Pool, assert_same, converge, differing
from tests.conformance.test_interrupted import STEPS, change_both
from tests.support import aws, servers
from tests.support.cluster import Cluster, cloud, operation_of
from tests.support.proxy import Exchange, Fault

pytestmark = [
    pytest.mark.one_server,
    pytest.mark.thorough,
    pytest.mark.parametrize("versions", [(NEWEST, NEWEST)], ids=["newest"]),
]
MEDIA_FILES, MEDIA_BYTES = 4, 900_000
"""More than one request takes, some 2.5 MB, so that a death can come between two."""

KEYS = re.compile(rb'"(hostkey|keyring)#')
"""In a call to DynamoDB about host keys: not about a head."""
OF_STORE = re.compile(rb'"\.store#|upkeep/heads')
"""In a call about the store's own record, which each server writes when it starts."""

State = dict[str, Any]
IsHit = Callable[[Exchange, Exchange], bool]
"""Of the client's request and the call to AWS."""


@pytest.fixture(scope="module", params=["dynamodb", pytest.param("s3", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with (
        aws.moto() as engine,
        cloud(folder, engine, request.param) as place,
        Cluster(folder, servers.make_users(40), place) as cluster,
    ):
        yield cluster


@pytest.fixture(autouse=True)
def nothing_planned(server: Cluster) -> Iterator[None]:
    yield
    spare(server)
    for index, member in enumerate(server.members):
        if not member.running:
            server.replace(index)


def spare(server: Cluster) -> None:
    server.proxy.fate = lambda _exchange: Fault.NONE
    server.place.wire.on_call = lambda _exchange: Fault.NONE
    server.place.wire.is_doomed = lambda _exchange: False


@dataclass(frozen=True)
class Work:
    """A sync in which servers die: what there is to do for device `a`, and how it does it."""

    prepare: Callable[[Device, Device, str], None]
    attempt: Callable[[Device], object]
    requests: frozenset[str]
    is_whole_or_none: bool = True
    """Media are whole request by request, of some files each."""


def prepare_sync(a: Device, b: Device, word: str) -> None:
    change_both(a, b, word)
    a.set_config("word", word)
    b.settle()


def prepare_upload(a: Device, _b: Device, word: str) -> None:
    a.add_notes([[f"{word} uploaded", ""]], deck=word, tags=[word])
    a.change_schema()


def prepare_download(_a: Device, b: Device, word: str) -> None:
    prepare_upload(b, b, word)
    b.upload()


def prepare_media(a: Device, b: Device, word: str) -> None:
    for name, *_ in a.media():
        a.remove_media(name)
    b.write_many(f"{word} b", 2, 100)
    b.sync_media()
    a.write_many(f"{word} a", MEDIA_FILES, MEDIA_BYTES)


WORKS = {
    "sync": Work(prepare_sync, lambda device: device.settle(), frozenset(STEPS)),
    "upload": Work(prepare_upload, lambda device: device.upload(), frozenset({"upload"})),
    "download": Work(prepare_download, lambda device: device.download(), frozenset({"download"})),
    "media": Work(
        prepare_media,
        lambda device: device.sync_media(),
        frozenset({"begin", "mediaChanges", "downloadFiles", "uploadChanges", "mediaSanity"}),
        is_whole_or_none=False,
    ),
}
ONLY_READ = {"meta", "chunk", "begin", "mediaChanges", "mediaSanity"}
"""Requests that may need no call at all."""


class Death:
    """Ends the server that is at work, once: at the call to AWS that is hit, before or after it lands."""

    def __init__(self, server: Cluster, is_hit: IsHit, *, landed: bool) -> None:
        self.server, self.is_hit, self.landed = server, is_hit, landed
        self.hit: Exchange | None = None
        self.name = "nothing"
        """The call that was hit."""
        self.killed: int | None = None
        self._lock = threading.Lock()
        self._over = False

    def lurk(self) -> None:
        self.server.place.wire.on_call = self._begin
        self.server.place.wire.is_doomed = self._end

    def _begin(self, call: Exchange) -> Fault:
        return Fault.LOSE_REQUEST if not self.landed and self._kills(call) else Fault.NONE

    def _end(self, call: Exchange) -> bool:
        return self.landed and self._kills(call)

    def _kills(self, call: Exchange) -> bool:
        request = self.server.proxy.exchanges[-1]
        with self._lock:  # a server may call AWS for itself, while the sync ends
            if self._over or not self.is_hit(request, call):
                return False
            self._over = True
            self.hit, self.name = call, f"{operation_of(call)} of {request.method}"
            self.killed = self.server.kill_busy()
        return True

    def bury(self) -> None:
        """No more deaths, and an empty server in the place of the dead one."""
        with self._lock:
            self._over = True
        spare(self.server)
        if self.killed is not None:
            self.server.replace(self.killed)


class DeathOfAll:
    """Ends all servers before the first request of each of these kinds; and once more at the end."""

    def __init__(self, server: Cluster, requests: set[str]) -> None:
        self.server, self.left, self.name = server, requests, " and ".join(sorted(requests))

    def lurk(self) -> None:
        self.server.proxy.fate = self._begin

    def _begin(self, request: Exchange) -> Fault:
        if request.method in self.left:
            self.left.discard(request.method)
            self.server.replace_all()
        return Fault.NONE

    def bury(self) -> None:
        spare(self.server)
        self.server.replace_all()


class Outcome(NamedTuple):
    told: bool
    """Whether the client saw its sync succeed."""
    stored: bool
    """Whether all of it was in the store after the death."""


class Scene:
    """Two devices in sync, and the store that nobody but a new device looks into."""

    def __init__(self, pool: Pool, folder: Path, server: Cluster, user: servers.User, a: Device, b: Device):
        self.pool, self.folder, self.server, self.user, self.a, self.b = pool, folder, server, user, a, b
        self.readers = count()

    def stored(self) -> State:
        """All that the store holds of the user."""
        device = Device(self.pool, NEWEST, self.folder / f"reader{next(self.readers)}")
        try:
            device.log_in(self.server.url, self.user)
            device.first_download()
            device.sync_media()
            return everything(device)
        finally:
            device.end()

    def play(self, work: Work, word: str, death: Death | DeathOfAll) -> Outcome:
        """A sync in which servers die, and the next one; looks at every promise."""
        a = self.a
        work.prepare(a, self.b, word)
        before = self.stored()
        assert differences(everything(a), before), "there was nothing to do"
        death.lurk()
        told = succeeds(work.attempt, a)
        death.bury()
        found = self.stored()
        work.attempt(a)
        after = self.stored()
        assert not differences(everything(a), after), f"{death.name}: client and store"
        lacking = differences(found, after)
        if told:
            assert not lacking, f"{death.name}: the client was told that it is done"
        elif work.is_whole_or_none:
            assert not lacking or not differences(before, found), f"{death.name}: a part of a sync"
        else:
            assert_between(before["media"], found["media"], after["media"])
        self.let_b_catch_up(work)
        return Outcome(told, not lacking)

    def let_b_catch_up(self, work: Work) -> None:
        """The other device's next sync succeeds, too, and then all are equal."""
        a, b = self.a, self.b
        if work is WORKS["upload"]:
            b.first_download()
        b.sync_media()
        converge(b, a)
        assert_same(a, b)
        assert not differences(everything(b), self.stored())


@pytest.fixture
def scene(
    pool: Pool, tmp_path: Path, server: Cluster, user: servers.User, pair: tuple[Device, Device]
) -> Scene:
    return Scene(pool, tmp_path, server, user, *pair)


def everything(device: Device) -> State:
    found: State = device.state()
    return found | {"config": device.all_config(), "media": device.media()}


def differences(first: State, second: State) -> dict[str, Any]:
    """The rows that only one of two states has, by part; empty if they are the same."""
    parts = (part for part in first if first[part] != second[part])
    return {part: differing(first[part], second[part]) for part in parts}


def succeeds(attempt: Callable[[Device], object], device: Device) -> bool:
    try:
        attempt(device)
    except ClientError:
        return False
    return True


def assert_between(before: list[Any], found: list[Any], after: list[Any]) -> None:
    """Some of the changes are there, and each of them is whole."""
    assert all(file in before or file in after for file in found)
    assert all(file in found for file in before if file in after)


def writes(request: str, what: str) -> IsHit:
    """The first write of an `object`, or of a `head`, in a request of this kind.

    When it has an answer, one that did its work: a server whose record is not the newest is refused first.
    Neither the store's own record (`.store`), which each server writes at its start, nor what a server does
    beside the request: it may come in between.
    """

    def is_hit(found: Exchange, call: Exchange) -> bool:
        if found.method != request or call.status not in {0, 200} or OF_STORE.search(call.body):
            return False
        if operation_of(call) == "PUT":
            if "/.store/" in call.path or "/upkeep/" in call.path:
                return False
            return ("/heads/" in call.path) is (what == "head")
        is_compaction = b"#chain_revision" in call.body and b"#stamps" not in call.body
        is_head = operation_of(call) == "UpdateItem" and not KEYS.search(call.body) and not is_compaction
        return is_head and what == "head"

    return is_hit


class Nth:
    """The nth call from now."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self, _request: Exchange, _call: Exchange) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize("landed", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("name", "request_", "what", "is_commit"),
    [
        ("sync", "applyChunk", "head", False),
        ("sync", "sanityCheck2", "object", False),
        ("sync", "sanityCheck2", "head", False),
        ("sync", "finish", "head", True),
        ("upload", "upload", "head", True),
        ("media", "uploadChanges", "object", False),
        ("media", "uploadChanges", "head", False),
    ],
)
def test_a_server_that_dies_at_a_write_leaves_a_whole_sync_or_none(
    scene: Scene, name: str, request_: str, what: str, *, is_commit: bool, landed: bool
) -> None:
    death = Death(scene.server, writes(request_, what), landed=landed)
    outcome = scene.play(WORKS[name], "death", death)
    assert not outcome.told
    assert outcome.stored is (is_commit and landed)


@pytest.mark.parametrize("step", ["applyChunk", "sanityCheck2", "finish"])
def test_a_sync_survives_the_death_of_all_servers_before_a_request(scene: Scene, step: str) -> None:
    assert scene.play(WORKS["sync"], "all", DeathOfAll(scene.server, {step})).told


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKS)
def test_any_work_survives_the_death_of_all_servers_before_every_request(scene: Scene, name: str) -> None:
    left = set(WORKS[name].requests)
    assert scene.play(WORKS[name], "all", DeathOfAll(scene.server, left)).told
    assert not left, f"never sent: {left}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("landed", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", WORKS)
def test_a_server_that_dies_at_any_call_to_aws_leaves_a_whole_sync_or_none(
    scene: Scene, name: str, *, landed: bool
) -> None:
    deaths: list[str] = []
    misses = 0
    for nth in count(1):
        death = Death(scene.server, Nth(nth), landed=landed)
        scene.play(WORKS[name], f"call {nth}", death)
        deaths += [death.name] if death.hit else []
        # How many calls a sync takes depends on what the servers remember, so one miss is not the end.
        misses = 0 if death.hit else misses + 1
        if misses == 2:
            break
    assert {death.rpartition(" ")[2] for death in deaths} >= WORKS[name].requests - ONLY_READ, deaths
