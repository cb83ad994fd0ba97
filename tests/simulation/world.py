"""One seed of the simulation: workers, devices and maintenance of several users, one store call at a time.

Every activity is a greenlet. Before and after each store call it may be stopped, and the scheduler goes on
with any other; so requests overlap in every way that their store calls can. Nothing depends on time or
threads: the same seed gives the same run.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import greenlet
import msgspec

from app import errors
from app.sync import chunks, messages
from app.sync.admission import Admitted
from app.sync.service import SyncService
from app.sync.session import commit_id, session_id
from storage.collection.engine.codec import Codec
from storage.collection.schema import configure
from storage.database import copies
from storage.database.format import keys
from storage.database.history import _decode as decode_departure
from storage.database.limits import Limits
from storage.database.local import cache
from storage.database.store import Commit
from storage.errors import Conflict, DeletionUnsafe, TooLarge, Unavailable
from storage.heads.memory import MemoryHeadStore
from storage.objects.memory import MemoryObjectStore
from storage.types import EMPTY_HEAD, DatabaseId, DatabaseKind, Head, UserId, run_inline
from tests.simulation.device import Broken, Device, Rows, read_file, write_file
from tests.simulation.oracle import Attempt, Oracle, difference, dump, dump_bytes
from tests.support.databases import make_file, make_store
from tests.support.faults import Faults

HISTORY_MS = 40 * 60_000
GRACE_MS = 20 * 60_000
MOST_SKEW_MS = 5 * 60_000
MOST_RECORD_BYTES = 12_000
"""With the limits below: a chain of 7 entries, 8 answers, 5 journal entries of at most 1500 bytes."""

NEVER_TWICE = {messages.START, messages.CHUNK}
"""Messages whose second delivery, on its way while the client goes on, is not undone; the official server
undoes none.

A `chunk` gives the next rows each time. A late second `start` is refused while its sync runs, but if another
device has ended that sync meanwhile, it begins the sync anew without what was sent before.
"""

STATUS = (
    (errors.SessionConflict, 409),
    (errors.NotApplicable, 400),
    (errors.ProtocolError, 400),
    (DeletionUnsafe, 503),
    (Conflict, 409),
    (TooLarge, 413),
    (Unavailable, 503),
)
"""As app.http has it. Anything else is a fault of the server."""


class Killed(BaseException):
    """The worker that served a request is gone."""


@contextlib.contextmanager
def small_steps() -> Iterator[None]:
    """Chunks of few rows, so that small collections need several; a copy in use is not waited for.

    Bases are copied, not linked: SQLite knows a file by its inode within a process, and would take the copies
    that two workers here have of one base for one file.
    """
    patched = (
        (chunks, "BATCH_ROWS", 3),
        (chunks, "CHUNK_BATCHES", 2),
        (copies, "_WAIT_S", 0),
        (cache, "_link_or_copy", shutil.copy2),
    )
    before = [getattr(module, name) for module, name, _ in patched]
    for module, name, value in patched:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(patched, before, strict=True):
            setattr(module, name, value)


@dataclass(frozen=True)
class Template:
    """What all seeds begin with: the engine, and the collection that a first device has."""

    codec: Codec
    content: bytes
    rows: Rows


@dataclass(frozen=True)
class Chances:
    """How often something goes wrong, of each occasion."""

    pause: float = 0.4
    """At a store call."""
    fault: float = 0.01
    lost_answer: float = 0.03
    repeat: float = 0.5
    """Of a request that was not answered; else the sync is given up."""
    twin: float = 0.03
    """A request that is sent a second time while the first is still on its way."""
    kill: float = 0.004
    """At each turn of the scheduler."""


CALM = Chances(0, 0, 0, 0, 0, 0)


class Scheduler:
    """Lets one greenlet go on at a time."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._ready: list[greenlet.greenlet] = []
        self._hub = greenlet.getcurrent()

    def spawn(self, activity: Callable[[], None]) -> None:
        self._ready.append(greenlet.greenlet(activity))

    def pause(self) -> None:
        """Called by an activity: let others go on."""
        if greenlet.getcurrent() is not self._hub:
            self._hub.switch()

    def run(self, between: Callable[[], None]) -> None:
        """Go on until all activities have ended."""
        while self._ready:
            between()
            one = self._chance.choice(self._ready)
            one.switch()
            if one.dead:
                self._ready.remove(one)


class Gate(Faults):
    """What lies between one worker and the stores."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.is_dead = False

    def run(self, store: str, method: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        world, chance = self.world, self.world.chance
        self._stop()
        fails = chance.random() < world.chances.fault
        if fails and chance.random() < 0.5:
            raise Unavailable("planned: before it landed")
        answer = function(*args)
        if method in {"list", "stream"}:
            answer = iter(list(answer))  # of one moment
        if store == "heads" and method not in {"find", "list"}:
            world.observe(args[0], method, args)
        if method == "delete":
            world.check_kept()
        if fails:
            raise Unavailable("planned: after it landed")
        self._stop()
        return answer

    def _stop(self) -> None:
        if self.is_dead:
            raise Killed
        if self.world.chance.random() < self.world.chances.pause:
            self.world.scheduler.pause()
            if self.is_dead:
                raise Killed


class Worker:
    """One process, as it were. Those with the same folder are of one host."""

    def __init__(self, world: World, folder: Path, skew_ms: int) -> None:
        self.gate, self.folder, self.skew_ms = Gate(world), folder, skew_ms
        scratch = folder / world.nonce()
        scratch.mkdir(parents=True)
        clock_ms = lambda: world.now_ms + skew_ms  # noqa: E731
        self.store = make_store(
            self.gate.heads(world.heads), self.gate.objects(world.objects), folder,
            clock_ms, world.nonce, configure=configure, limits=world.limits,
        )  # fmt: skip
        self.service = SyncService(
            self.store, world.template.codec, scratch,
            offload=run_inline, clock_ms=clock_ms, nonce=world.nonce,
        )  # fmt: skip

    def kill(self) -> None:
        """As SIGKILL does: locks are let go, and nothing is tidied up on the disk that others share.

        What the dead worker's requests still do while they are unwound finds a folder of its own.
        """
        self.gate.is_dead = True
        aside = self.folder / f"dead-{id(self)}"
        aside.mkdir()
        shared = self.store._copies
        shared._folder = aside
        for handle in shared._handles.values():
            if handle.checkout is not None:
                handle.checkout.connection.close(True)  # noqa: FBT003
            handle.folder = aside
            file = os.open(aside / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            os.dup2(file, handle._file)
            os.close(file)

    def close(self) -> None:
        with contextlib.suppress(apsw.Error, OSError):
            self.store.close()


@dataclass
class User:
    """What is known of one user."""

    database: DatabaseId
    oracle: Oracle
    head: Head = EMPTY_HEAD
    attempts: dict[str, Attempt] = field(default_factory=dict)
    """By session id."""
    came_ms: dict[int, dict[bytes, int]] = field(default_factory=dict)
    """When messages came, by token and digest."""
    last_digest: bytes = b""
    acknowledged: set[str] = field(default_factory=set)
    committed: set[str] = field(default_factory=set)
    """Session ids."""
    transcript: list[tuple[str, Any]] = field(default_factory=list)
    """What was committed, in order: ("replace", file), ("raise usn", None), ("sync", attempt)."""
    devices: list[Device] = field(default_factory=list)


@dataclass
class Operation:
    """What an activity is doing: tells whose a commit without a session is."""

    kind: str = ""
    content: bytes = b""


class World:
    """The stores, and everything that uses them."""

    def __init__(
        self,
        seed: int,
        template: Template,
        folder: Path,
        *,
        users: int = 2,
        devices: int = 2,
        rounds: int = 3,
        now_ms: int = 1_800_000_000_000,
        days_may_pass: bool = True,
    ) -> None:
        self.chance = random.Random(seed)
        self.template, self.folder, self.rounds, self.now_ms = template, folder, rounds, now_ms
        self.days_may_pass = days_may_pass
        self.chances = Chances()
        self.is_calm = False
        self.limits = Limits(
            journal_inline_bytes=self.chance.choice((300, 8000)),
            journal_fold_bytes=1500,
            journal_fold_entries=self.chance.choice((2, 5)),
            merge_deltas=3,
            chain_deltas=6,
            snapshot_percent=self.chance.choice((50, 1000)),
            cumulative_pages=self.chance.choice((0, 24)),
            rebase_bytes=self.chance.choice((40_000, 16 << 20)),
            rebase_share=1_000_000,
            history_ms=HISTORY_MS,
            sweep_grace_ms=self.chance.choice((0, GRACE_MS)),
        )
        self._numbers = itertools.count()
        self.scheduler = Scheduler(self.chance)
        self.heads = MemoryHeadStore()
        self.objects = MemoryObjectStore(lambda: self.now_ms)
        self.operations: dict[greenlet.greenlet, Operation] = {}
        self.events: list[str] = []
        self.everyone: list[Worker] = []
        self.workers = [self.new_worker(host) for host in ("host0", "host0", "host1", "host2")]
        self.users = {}
        for number in range(users):
            database = DatabaseId(UserId(f"user{number}"), DatabaseKind.COLLECTION)
            user = self.users[database] = User(database, Oracle(template.codec))
            for index in range(devices):
                skew_ms = self.chance.randrange(-MOST_SKEW_MS, MOST_SKEW_MS)
                rows = template.rows.copy() if index == 0 else Rows()
                clock_ms = partial(lambda skew_ms: self.now_ms + skew_ms, skew_ms)
                user.devices.append(Device(index, self.chance, clock_ms, rows))
        self.media = DatabaseId(UserId("media"), DatabaseKind.MEDIA)
        self.media_rows = 0

    def nonce(self) -> str:
        return f"{next(self._numbers):08x}"

    def new_worker(self, host: str) -> Worker:
        worker = Worker(self, self.folder / host, self.chance.randrange(-MOST_SKEW_MS, MOST_SKEW_MS))
        self.everyone.append(worker)
        return worker

    def close(self) -> None:
        for worker in self.everyone:
            worker.close()
        for user in self.users.values():
            user.oracle.close()

    # What may happen between two steps.

    def run(self) -> None:
        """Everything at once, then a calm in which all devices must come to agree."""
        for user in self.users.values():
            for device in user.devices:
                self.scheduler.spawn(partial(self._live, user, device))
        self.scheduler.spawn(self._maintain)
        self.scheduler.spawn(self._change_media)
        self.scheduler.run(self._between)
        self.is_calm, self.chances = True, CALM
        for user in self.users.values():
            self._calm_down(user)
            self.check_user(user)
        self.check_kept()

    def _between(self) -> None:
        self.now_ms += self.chance.randrange(0, 2000)
        if self.days_may_pass and self.chance.random() < 0.001:
            self.now_ms += self.chance.randrange(0, 26 * 3_600_000)
        if self.chance.random() < self.chances.kill:
            self._replace(self.chance.randrange(len(self.workers)))

    def _replace(self, index: int) -> None:
        worker = self.workers[index]
        self.note("kill", index)
        worker.kill()
        host = self.chance.choice(("host0", "host1", "host2", self.nonce()))
        self.workers[index] = self.new_worker(host)

    def note(self, *event: object) -> None:
        self.events.append(" ".join(map(str, event)))

    # Devices.

    def _live(self, user: User, device: Device) -> None:
        for _ in range(self.rounds):
            if device.rows.models:
                device.use()
            with contextlib.suppress(Broken):
                self._sync(user, device)
            self.scheduler.pause()

    def _sync(self, user: User, device: Device) -> None:
        """What a client does when its user asks for a sync. Raises: Broken."""
        key = self.nonce()
        call = partial(self._call, user, device, key)
        remote = call("meta", {"v": 11, "cv": "simulation"})
        rows = device.rows
        if rows.mod == remote["mod"] and rows.is_pending():
            rows.mod += 1  # two clocks gave the same time: the official client would sync one change later
        if rows.mod == remote["mod"]:
            return
        if rows.scm != remote["scm"]:
            if remote["scm"] == 0 and rows.models:
                self._upload(user, device)
            elif not rows.models or self.is_calm or self.chance.random() < 0.6:
                self._download(user, device)
            else:
                self._upload(user, device)
            return
        attempt = Attempt(device.index, rows.usn, rows.mod > remote["mod"])
        name = session_id(user.database.user, key)
        user.attempts[name] = attempt

        def call_on(method: str, message: Any) -> Any:
            answer = call(method, message)
            stamps = user.head.stamps
            if method == messages.START and any(stamps[name] != remote[name] for name in ("usn", "scm")):
                # The rows to come would have a USN that other devices have passed: a flaw of the protocol.
                raise Broken("another device came between meta and start")
            return answer

        try:
            device.sync(call_on, remote)
        except Broken:
            if self.chance.random() < 0.3:
                with contextlib.suppress(Broken):
                    call("abort", {})
            raise
        user.acknowledged.add(name)
        assert name in user.committed, "a sync was acknowledged and not committed"

    def _call(self, user: User, device: Device, key: str, method: str, message: Any) -> Any:
        attempt = user.attempts.get(session_id(user.database.user, key))
        body = json.dumps(message).encode()
        if attempt is not None:
            keep_message(attempt, method, message, body)
        send = partial(self._serve, user, method, key, body)
        if method not in NEVER_TWICE and self.chance.random() < self.chances.twin:
            self.scheduler.spawn(lambda: self._twin(user, method, send))
        while True:
            status, answer = self._ask(user, device, method, send)
            if status == 200:
                return json.loads(answer)
            # A second `chunk` asks for the next rows: nothing tells it from a repeated one.
            if method == messages.CHUNK or self.chance.random() >= self.chances.repeat:
                raise Broken(method)

    def _twin(self, user: User, method: str, send: Callable[[], tuple[int, bytes]]) -> None:
        status, _ = send()
        self.note(user.database.user, "twin of", method, status)

    def _ask(self, user: User, device: Device, method: str, send: Callable[[], tuple[int, Any]]) -> Any:
        status, answer = send()
        is_lost = status == 200 and self.chance.random() < self.chances.lost_answer
        self.note(user.database.user, f"device{device.index}", method, status, "lost" if is_lost else "")
        assert status in {200, 0, 503, 409}, (method, status, answer)
        assert status == 200 or not self.is_calm, (method, status, answer)
        return (0, b"") if is_lost else (status, answer)

    def _serve(self, user: User, method: str, key: str, body: bytes) -> tuple[int, bytes]:
        return self._on_worker(
            lambda worker: worker.service.call(Admitted(user.database.user), method, key, 11, body)
        )

    def _on_worker(self, work: Callable[[Worker], Any]) -> tuple[int, Any]:
        """Status 0: there was no answer."""
        worker = self.chance.choice(self.workers)
        try:
            return 200, work(worker)
        except BaseException as exc:
            if worker.gate.is_dead:
                return 0, b""
            for kind, status in STATUS:
                if isinstance(exc, kind):
                    return status, repr(exc)
            raise

    def _upload(self, user: User, device: Device) -> None:
        device.before_upload()
        content = write_file(device.rows, self.template.content, self.template.codec)
        path = self.folder / self.nonce()

        def send() -> tuple[int, Any]:
            path.write_bytes(content)
            with self._operation("upload", content):
                return self._on_worker(lambda worker: worker.service.upload(user.database.user, path))

        status, answer = self._ask(user, device, "upload", send)
        path.unlink(missing_ok=True)
        if status != 200:
            raise Broken("upload")
        assert answer == "OK", answer

    def _download(self, user: User, device: Device) -> None:
        def send() -> tuple[int, Any]:
            with self._operation("download"):
                return self._on_worker(give)

        def give(worker: Worker) -> bytes:
            download = worker.service.download(user.database.user, 11, b"{}")
            content = b"".join(download.blocks)
            download.blocks.close()
            return content

        status, answer = self._ask(user, device, "download", send)
        if status != 200:
            raise Broken("download")
        found = dump_bytes(answer)
        usn = found["col"][0][6]
        same = [version for version, dump_ in user.oracle.dumps.items() if dump_["col"][0][6] == usn]
        differences = [difference(found, user.oracle.dumps[version]) for version in same]
        assert "" in differences, ("a download is no version", usn, differences)
        device.rows = read_file(answer, self.template.codec)

    @contextlib.contextmanager
    def _operation(self, kind: str, content: bytes = b"") -> Iterator[None]:
        current = greenlet.getcurrent()
        self.operations[current] = Operation(kind, content)
        try:
            yield
        finally:
            del self.operations[current]

    # Maintenance, and another database in the same stores.

    def _maintain(self) -> None:
        for _ in range(5 * self.rounds):
            self.scheduler.pause()
            database = self.chance.choice([*self.users, self.media])
            name = self.chance.choice(("compact", "sweep"))
            status, _ = self._on_worker(lambda worker: getattr(worker.store, name)(database))  # noqa: B023
            self.note(name, database, status)

    def _change_media(self) -> None:
        for number in range(2 * self.rounds):
            self.scheduler.pause()
            status, _ = self._on_worker(partial(self._add_media_row, number=number))
            self.media_rows += status == 200

    def _add_media_row(self, worker: Worker, number: int) -> None:
        store = worker.store
        head = store.head(self.media)
        commit = Commit(self.nonce(), b"", self.now_ms, {"usn": number}, None)
        if head.version == 0:
            path = make_file(self.folder / self.nonce(), 10)
            store.replace(self.media, head, path, commit)
            return
        checkout = store.checkout(self.media, head)
        with store.discarding(checkout):
            checkout.begin()
            checkout.connection.execute(f"INSERT INTO t VALUES ({1000 + number}, 'media')")
        store.commit(checkout, head, commit)
        store.release(checkout)

    # What must hold.

    def observe(self, database: DatabaseId, method: str, args: tuple[Any, ...]) -> None:
        """Called after each write of a head record, before anything else happens."""
        user, head = self.users.get(database), self.heads.find(database) or EMPTY_HEAD
        if user is None:
            return
        before, user.head = user.head, head
        assert head.token >= before.token, "the token went down"
        assert before.version <= head.version <= before.version + 1
        size_bytes = len(msgspec.msgpack.encode(head))
        assert size_bytes <= MOST_RECORD_BYTES, f"a record of {size_bytes} bytes"
        for key in named_objects(database, head):
            assert self.objects.find(key), f"{key} is gone"
        if method == "append":
            entry = args[2]
            session = head.session
            # A message that comes twice in a row is one message.
            if entry.digest != user.last_digest and session is not None and session.id == args[1]:
                user.came_ms.setdefault(session.token, {})[entry.digest] = entry.now_ms
                user.last_digest = entry.digest
        elif method == "open_session":
            user.last_digest = b""
        if head.version > before.version:
            self._note_commit(user, before, head)

    def _note_commit(self, user: User, before: Head, head: Head) -> None:
        session, made = before.session, head.recent[-1]
        if session is not None and made.commit_id == commit_id(session.id, session.token):
            attempt = user.attempts[session.id]
            assert attempt.is_finishing, "a sync was committed that its client has not ended"
            assert session.id not in user.committed, "a sync was committed twice"
            assert head.stamps["mod"] > before.stamps["mod"], "the time of change went back"
            assert head.stamps["usn"] == before.stamps["usn"] + 1
            came_ms = user.came_ms.get(session.token, {})
            mod_ms = int(head.stamps["mod"])
            user.oracle.sync(head.version, attempt, session.started_ms, came_ms, mod_ms)
            user.committed.add(session.id)
            user.transcript.append(("sync", attempt))
            self.note(user.database.user, "version", head.version, "is a sync of device", attempt.device)
        else:
            operation = self.operations.get(greenlet.getcurrent(), Operation())
            if before.version == 0 and operation.kind != "upload":
                # A new user's empty collection, whose ids and times the engine makes up.
                content = self.read(user.database, head)
                user.transcript.append(("genesis", content))
                user.oracle.replace(head.version, content)
            elif operation.kind == "upload":
                user.transcript.append(("replace", operation.content))
                user.oracle.replace(head.version, operation.content)
            else:
                assert operation.kind == "download", "a version that nobody asked for"
                user.transcript.append(("raise usn", None))
                assert head.stamps["mod"] > before.stamps["mod"], "the time of change went back"
                user.oracle.raise_usn(head.version, int(head.stamps["mod"]))
            self.note(user.database.user, "version", head.version, "by", operation.kind or "genesis")
        expected = {name: value for name, value in user.oracle.stamps().items() if name != "newest"}
        found = {name: value for name, value in head.stamps.items() if name != "newest"}
        # `unsynced` may be true without need.
        expected["unsynced"] = expected["unsynced"] or found["unsynced"]
        assert found == expected, ("the stamps differ", found, expected)
        newest = head.stamps.get("newest")
        assert newest is None or newest >= user.oracle.stamps()["newest"], "news would be kept from clients"

    def check_kept(self) -> None:
        """Every object that a version of the retained history names is there."""
        for database in self.users:
            head = self.heads.find(database) or EMPTY_HEAD
            wanted = set(named_objects(database, head))
            for stat in list(self.objects.list(keys.history_prefix(database))):
                departure = decode_departure(stat.key, self.objects.read(stat.key))
                if departure.time_ms + HISTORY_MS > self.now_ms + MOST_SKEW_MS:
                    wanted.update(keys.entry_key(database, entry) for entry in departure.chain)
            missing = [key for key in wanted if self.objects.find(key) is None]
            assert not missing, missing

    def check_user(self, user: User) -> None:
        """The stored collection is the oracle's: on every worker, on a new one, and in its history."""
        head = self.heads.find(user.database) or EMPTY_HEAD
        expected = user.oracle.dumps[head.version]
        fresh = self.new_worker(self.nonce())
        for worker in (*self.workers, fresh):
            checkout = worker.store.checkout(user.database, head)
            found = dump(checkout.connection)
            worker.store.release(checkout)
            assert not difference(found, expected), difference(found, expected)
        assert fresh.store.doctor(user.database).faults == ()
        points = fresh.store.history(user.database)
        for point in self.chance.sample(points, min(3, len(points))):
            path = self.folder / self.nonce()
            fresh.store.export(user.database, point, path)
            found = dump_bytes(path.read_bytes())
            expected = user.oracle.dumps[point.version]
            assert not difference(found, expected), (point.version, difference(found, expected))
            path.unlink()
        assert user.acknowledged <= user.committed

    def _calm_down(self, user: User) -> None:
        """Without faults every sync succeeds, and after two rounds all devices have the same."""
        for _ in range(2):
            for device in user.devices:
                device.may_be_late = False
                self.now_ms += 1000
                self._sync(user, device)
        for device in user.devices[1:]:
            ours, theirs = device.rows.contents(), user.devices[0].rows.contents()
            differences = {
                name: [
                    item
                    for item in (*ours[name], *theirs[name])
                    if name == "tags" or ours[name].get(item) != theirs[name].get(item)
                ]
                for name in ours
                if ours[name] != theirs[name]
            }
            assert not differences, ("devices differ", differences)

    def read(self, database: DatabaseId, head: Head) -> bytes:
        """A version as a file, past all workers."""
        store = make_store(
            self.heads, self.objects, self.folder / self.nonce(),
            lambda: self.now_ms, self.nonce, configure=configure, limits=self.limits,
        )  # fmt: skip
        checkout = store.checkout(database, head)
        with checkout.reader() as reader:
            content = b"".join(reader.blocks())
        store.release(checkout)
        store.close()
        return content


def keep_message(attempt: Attempt, method: str, message: Any, body: bytes) -> None:
    """Note what a client sends, once."""
    if method == messages.START and message.get("graves"):
        request = messages.ApplyGravesRequest(messages.read_start(body).graves)
        attempt.messages.append((messages.APPLY_GRAVES, messages.encode(request)))
    elif method in {messages.APPLY_GRAVES, messages.APPLY_CHANGES, messages.APPLY_CHUNK}:
        attempt.messages.append((method, body))
    elif method == messages.FINISH:
        attempt.is_finishing = True


def named_objects(database: DatabaseId, head: Head) -> Iterator[str]:
    """The keys that a head record names."""
    for entry in head.chain:
        yield keys.entry_key(database, entry)
    if head.session is not None:
        yield from (entry.key for entry in head.session.journal if entry.key is not None)
        if head.session.prepared is not None:
            yield keys.entry_key(database, head.session.prepared.entry)


def make_template(folder: Path, codec: Codec) -> Template:
    """A collection as the engine makes it, and a device that has it."""
    from storage.collection.engine.empty import create_empty  # noqa: PLC0415 - the engine is slow to load

    path = folder / "template"
    create_empty(path)
    content = path.read_bytes()
    path.unlink()
    rows = read_file(content, codec)
    rows.scm = rows.mod = 1_700_000_000_000
    return Template(codec, content, rows)


def simulate(seed: int, template: Template, folder: Path, **shape: Any) -> World:
    """Run one seed in an empty folder; the caller closes the world. Raises AssertionError with the events."""
    with small_steps():
        world = World(seed, template, folder, **shape)
        try:
            world.run()
        except BaseException as exc:
            exc.add_note("\n".join(world.events[-60:]))
            exc.add_note(f"seed {seed}: repeat it with `make simulate FIRST={seed} SEEDS=1`")
            world.close()
            raise
    return world
