"""The composition root: with `app.cloud`, the only file that names concrete backends."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import flask
import msgspec

from app.auth.attempts import Counts, LocalCounts, LoginAttempts
from app.auth.attempts import Limits as LoginLimits
from app.auth.authenticator import Authenticator
from app.auth.cloudusers import NoUsersFile, PoolUsers, UserList
from app.auth.environment import EnvironmentUsers
from app.auth.hostkeys import HostKeys
from app.auth.local import LocalUsers
from app.auth.localkeys import LocalHostKeys
from app.auth.passwords import Passwords
from app.auth.users import UserDirectory
from app.auth.usersfile import UsersFile
from app.config import Heads, Settings, SettingsError
from app.deletions import Deletions
from app.history import Restorer
from app.housekeeping import DailyTurn, DueQueue, Housekeeper, NoTurn, Turn
from app.http.application import make_application
from app.http.front import Front
from app.http.request import RequestReader
from app.http.response import Answers
from app.locks import KeyedLocks
from app.media.gate import IndexGate, Waiting
from app.media.service import MediaService
from app.offload import ThreadPools
from app.packages import Packages
from app.sync.service import SyncService
from app.upkeep import InParallel, Upkeep
from storage.collection.codec import Codec
from storage.collection.schema import configure
from storage.database.cache import WorkFolder
from storage.database.limits import Limits
from storage.database.mark import HeadsMark
from storage.database.sharedput import SharedPut
from storage.database.store import DatabaseStore
from storage.errors import StorageError
from storage.heads.base import HeadStore
from storage.heads.guarded import GuardedHeadStore
from storage.heads.local import LocalHeadStore
from storage.media.blobs import Blobs, in_turn
from storage.media.blobs import InParallel as BlobsInParallel
from storage.objects.ahead import WriteAhead
from storage.objects.base import ObjectStore
from storage.objects.local import LocalObjectStore
from storage.types import Offload

if TYPE_CHECKING:
    from app.cloud import Cloud

_LEAST_THREADS = 8
_DAY_MS = 24 * 3600 * 1000

_LOCAL_JOURNAL_BYTES = 64 * 1024
"""A head record of this machine is written anew in microseconds, for which no disk is waited for; an object
costs a sync. So the journal of a thousand reviews stays in the record."""

_CUMULATIVE_PAGES = 64
"""Of a delta on AWS, where each host has its own copies: the changes of some six syncs of ten reviews. A host
that is a few versions behind then fetches one object instead of one for each version."""


def make_pools() -> ThreadPools:
    """Threads mostly wait for the disk or run without the interpreter's lock, so more than cores."""
    cores = os.cpu_count() or 1
    return ThreadPools(
        quick_threads=max(_LEAST_THREADS, 2 * cores), transfer_threads=max(_LEAST_THREADS, 2 * cores)
    )


def make_front(settings: Settings, pools: ThreadPools, authenticator: Authenticator, folder: Path) -> Front:
    """The HTTP side of one worker process; `folder` is for temporary files."""
    reader = RequestReader(
        unpacked_limit_bytes=settings.unpacked_limit_bytes,
        form_limit_bytes=settings.multipart_limit_bytes,
        folder=folder,
        offload=pools.run,
        address_source=settings.address_source,
        authenticate=authenticator.authenticate,
    )
    return Front(
        reader=reader,
        answers=Answers(pools),
        authenticator=authenticator,
        pools=pools,
        folder=folder,
        message_limit_bytes=settings.message_limit_bytes,
    )


@dataclass(frozen=True, slots=True)
class Accounts:
    """Who may log in, and the keys they have: what the server and the admin command share."""

    users: UserList
    keys: HostKeys
    authenticator: Authenticator


def build_accounts(
    settings: Settings, cloud: Cloud | None, *, offload: Offload[Any], clock_ms: Callable[[], int]
) -> Accounts:
    """Users and host keys: of the users' file, of the environment alone, or of a user pool.

    Raises: SettingsError when a hash of PASSWORDS_HASHED cannot be used.
    """
    in_cloud = cloud is not None and settings.cloud is not None
    folder = settings.cache_dir if in_cloud else settings.data_root
    file = UsersFile(folder / "users.sqlite", offload)
    keys: HostKeys = LocalHostKeys(file)
    counts: Counts = LocalCounts(file)
    if cloud is not None and in_cloud:
        keys = cloud.host_keys(clock_ms)
        counts = cloud.counts() or counts  # without a table: counted on each host
    users: UserList
    directory: UserDirectory
    if cloud is not None and settings.cognito is not None:
        users, directory = PoolUsers(), cloud.directory(settings.cognito)
    else:
        passwords = Passwords(offload)
        users_file = NoUsersFile() if in_cloud else file
        users = directory = LocalUsers(users_file, _environment(settings), passwords, clock_ms)
    # Only where users and keys are both in the file does its revision speak for both.
    revision = file.revision if cloud is None else None
    attempts = LoginAttempts(counts, clock_ms, LoginLimits())
    return Accounts(users, keys, Authenticator(directory, keys, attempts, clock_ms, revision))


def _environment(settings: Settings) -> EnvironmentUsers:
    credentials = [(user.name, user.password) for user in settings.fixed_users]
    try:
        return EnvironmentUsers(credentials, hashed=settings.passwords_hashed)
    except ValueError as exc:
        raise SettingsError([str(exc)]) from None


@dataclass(frozen=True, slots=True)
class Stores:
    """Everything that is kept, and how this process works with it."""

    heads: HeadStore
    objects: ObjectStore
    databases: DatabaseStore
    blobs: Blobs
    locks: KeyedLocks
    """For media indexes: held by whoever works on one."""
    upkeep: Upkeep
    due: DueQueue
    limits: Limits
    ahead: WriteAhead | None
    """Of the local store alone."""
    work: WorkFolder
    """For temporary files of this process."""

    def close(self) -> None:
        """Leave nothing behind that is this process's own."""
        self.databases.close()
        if isinstance(self.heads, LocalHeadStore):
            self.heads.close()
        if self.ahead is not None:
            self.ahead.close()
        self.work.close()


def _unguarded(heads: HeadStore, mark: HeadsMark) -> HeadStore:
    del mark
    return heads


def _closed_after_a_loss(heads: HeadStore, mark: HeadsMark) -> HeadStore:
    """The head records, or a guard that answers nothing from them while they are not to be believed."""
    try:
        if mark.find_fault() is None:
            return heads
    except StorageError:
        pass  # the stores are away: the guard looks again
    return cast(HeadStore, GuardedHeadStore(heads, mark.find_fault, time.monotonic))


def build_cloud(settings: Settings) -> Cloud | None:
    """The SDK and its clients; None, and not even imported, where everything is local."""
    if settings.cloud is None and settings.cognito is None:
        return None
    from app.cloud import Cloud  # noqa: PLC0415 - half a second and 30 MB that local servers do without

    return Cloud(settings)


def build_stores(  # noqa: PLR0913 - collaborators by name
    settings: Settings,
    cloud: Cloud | None,
    *,
    offload: Offload[Any],
    clock_ms: Callable[[], int],
    guard: Callable[[HeadStore, HeadsMark], HeadStore] = _unguarded,
    in_parallel: InParallel = map,
) -> Stores:
    """The stores of one process: of a worker, or of the admin command beside running workers.

    `guard` gives the head records that databases are served from.
    """
    limits = _limits(settings)
    heads: HeadStore
    objects: ObjectStore
    ahead: WriteAhead | None = None
    put: Callable[[str, bytes], None] | None = None
    look_up_blobs: BlobsInParallel = in_turn
    if cloud is not None and settings.cloud is not None:
        bucket = cloud.objects(offload)
        heads, objects, look_up_blobs = cloud.heads(), bucket, bucket.in_parallel
        limits = msgspec.structs.replace(limits, cumulative_pages=_CUMULATIVE_PAGES)
    else:
        root = _made(settings.data_root)
        limits = msgspec.structs.replace(
            limits, journal_inline_bytes=_LOCAL_JOURNAL_BYTES, journal_fold_bytes=4 * _LOCAL_JOURNAL_BYTES
        )
        ahead = WriteAhead(root / "ahead", root / "objects")
        heads, objects = (
            LocalHeadStore(root / "heads.sqlite", offload),
            LocalObjectStore(root, offload, ahead),
        )
        put = SharedPut(objects)
    work = WorkFolder(_made(settings.cache_dir) / "spool", new_nonce())
    due = DueQueue()
    locks = KeyedLocks(threading.RLock)
    databases = DatabaseStore(
        guard(heads, HeadsMark(heads, objects, new_nonce)),
        objects,
        _made(settings.cache_dir / "cache"),
        offload=offload,
        clock_ms=clock_ms,
        nonce=new_nonce,
        configure=configure,
        limits=limits,
        due=due.add,
        put=put,
    )
    blobs = Blobs(
        objects,
        fresh_ms=limits.sweep_grace_ms // 2,
        offload=offload,
        in_parallel=look_up_blobs,
    )
    upkeep = Upkeep(
        databases,
        heads,
        objects,
        clock_ms=clock_ms,
        nonce=new_nonce,
        offload=offload,
        scratch=work.path,
        locks=locks,
        limits=limits,
        in_parallel=in_parallel,
    )
    return Stores(heads, objects, databases, blobs, locks, upkeep, due, limits, ahead, work)


@dataclass(frozen=True, slots=True)
class Process:
    """One worker process: what answers its requests, what it does beside them, and its end."""

    app: flask.Flask
    keep_house: Callable[[], None]
    """Never returns; for a greenlet of its own."""
    has_users: Callable[[], bool]
    close: Callable[[], None]


def build_collections(settings: Settings, stores: Stores, *, offload: Offload[Any]) -> SyncService:
    """The collection protocol; also how the admin command brings whole collections in."""
    return SyncService(
        stores.databases,
        Codec(),
        stores.work.path,
        offload=offload,
        clock_ms=now_ms,
        nonce=new_nonce,
        limit_bytes=settings.unpacked_limit_bytes,
    )


def build_gate(stores: Stores, *, offload: Offload[Any]) -> IndexGate:
    """The way to the media indexes."""
    return IndexGate(
        stores.databases,
        locks=stores.locks,
        offload=offload,
        clock_ms=now_ms,
        nonce=new_nonce,
        scratch=stores.work.path,
        waiting=Waiting(time.sleep, time.monotonic),
    )


def build_restorer(stores: Stores, gate: IndexGate, *, offload: Offload[Any]) -> Restorer:
    """What brings earlier versions back."""
    return Restorer(
        stores.databases,
        stores.blobs,
        gate,
        stores.work.path,
        stores.limits.history_ms,
        offload,
        now_ms,
        new_nonce,
    )


def build(settings: Settings) -> flask.Flask:
    """The application of one worker process."""
    return build_process(settings).app


def build_process(settings: Settings) -> Process:
    """Everything that one worker process needs; to be called after the fork."""
    pools = make_pools()
    offload = pools.run
    cloud = build_cloud(settings)
    accounts = build_accounts(settings, cloud, offload=offload, clock_ms=now_ms)
    stores = build_stores(settings, cloud, offload=offload, clock_ms=now_ms, guard=_closed_after_a_loss)
    collections = build_collections(settings, stores, offload=offload)
    scratch = stores.work.path
    gate = build_gate(stores, offload=offload)
    media = MediaService(
        gate,
        stores.blobs,
        offload=offload,
        clock_ms=now_ms,
        scratch=scratch,
        limit_bytes=settings.unpacked_limit_bytes,
    )
    front = make_front(settings, pools, accounts.authenticator, scratch)
    housekeeper = Housekeeper(
        stores.upkeep,
        stores.due,
        sleep=time.sleep,
        turn=turn_of(settings),
        monotonic_s=time.monotonic,
        before=build_deletions(accounts, stores).carry_out,
    )

    def keep_house() -> None:
        with pools.transfer():
            housekeeper.keep_house()

    add_pages = None
    if settings.has_pages:
        add_pages = build_pages(settings, accounts, stores, gate=gate, collections=collections, pools=pools)
    return Process(
        make_application(front, collections, media, add_pages),
        keep_house,
        lambda: settings.cognito is not None or any(True for _ in accounts.users.list()),
        stores.close,
    )


def build_deletions(accounts: Accounts, stores: Stores) -> Deletions:
    """What deletes accounts whose users want it."""
    return Deletions(accounts.keys, accounts.users, stores.databases, now_ms)


def build_pages(  # noqa: PLR0913 - collaborators by name
    settings: Settings,
    accounts: Accounts,
    stores: Stores,
    *,
    gate: IndexGate,
    collections: SyncService,
    pools: ThreadPools,
) -> Callable[[flask.Flask], None]:
    """What adds the user's own pages to the application."""
    from app.web.room import Services, make_pages  # noqa: PLC0415 - libraries that a server without pages spares

    packages = Packages(
        stores.databases,
        collections,
        gate,
        stores.blobs,
        stores.work.path,
        settings.unpacked_limit_bytes,
        pools.run,
        now_ms,
    )
    return make_pages(
        Services(
            authenticator=accounts.authenticator,
            keys=accounts.keys,
            users=accounts.users,
            databases=stores.databases,
            restorer=build_restorer(stores, gate, offload=pools.run),
            packages=packages,
            deletions=build_deletions(accounts, stores),
            pools=pools,
            address_source=settings.address_source,
            clock_ms=now_ms,
            nonce=new_nonce,
            scratch=stores.work.path,
        )
    )


def turn_of(settings: Settings) -> Turn:
    """Who goes through the whole store each day; with a table it is a scheduled `ankisyncctl maintain`.

    Many machines share a table; each of them would go through all users.
    """
    if settings.cloud is not None and settings.cloud.heads is Heads.DYNAMODB:
        return NoTurn()
    return DailyTurn(settings.cache_dir, now_ms)


def _limits(settings: Settings) -> Limits:
    chosen: dict[str, int] = {}
    if settings.cache_bytes is not None:
        chosen["base_bytes"] = settings.cache_bytes
    if settings.history_days is not None:
        chosen["history_ms"] = settings.history_days * _DAY_MS
    return Limits(**chosen)


def now_ms() -> int:
    """The clock of this machine."""
    return time.time_ns() // 1_000_000


def new_nonce() -> str:
    """A name that nobody else chooses."""
    return secrets.token_hex(8)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
