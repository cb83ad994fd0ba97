"""The composition root: creates all parts of a process from the settings.

Called by `app.wsgi`, `app.cli.server` and the admin commands. Only this module and `app.cloud` import
backends.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from app.auth.attempts import Counts, LocalCounts, LoginAttempts
from app.auth.attempts import Limits as LoginLimits
from app.auth.authenticator import Authenticator, in_thread
from app.auth.aws.users import NoUsersFile, UserList
from app.auth.hostkeys import HostKeys
from app.auth.local.environment import EnvironmentUsers
from app.auth.local.hostkeys import LocalHostKeys
from app.auth.local.users import LocalUsers
from app.auth.local.usersfile import UsersFile
from app.auth.passwords import Passwords
from app.auth.users import UserDirectory
from app.config import Heads, Settings, SettingsError
from app.deletions import Deletions
from app.failures import FailureLog
from app.history import Restorer
from app.http.dispatch import AddPages, make_application
from app.http.files import Files
from app.http.ops import with_private_port
from app.http.pipeline import Pipeline
from app.http.request import RequestReader
from app.http.response import Answers, WsgiApp
from app.locks import KeyedLocks
from app.maintenance import InParallel, Maintenance
from app.maintenance_loop import CompactionQueue, Daily, MaintenanceLoop, Never, Schedule
from app.media.gate import IndexGate, Waiting
from app.media.service import MediaService
from app.offload import ThreadPools
from app.ops.metering import Metering
from app.ops.readiness import Readiness, Service
from app.orders import OrdersWatch
from app.packages import Packages
from app.restorecheck import RestoreCheck
from app.sync.service import SyncService
from storage.collection.engine.codec import Codec
from storage.collection.schema import configure
from storage.database.limits import Limits
from storage.database.local.cache import WorkFolder
from storage.database.maintenance.mark import STORE, HeadsMark
from storage.database.orders import OrdersRecord, Quota
from storage.database.store import DatabaseStore
from storage.errors import StorageError
from storage.heads.base import HeadStore
from storage.heads.guarded import GuardedHeadStore
from storage.heads.local import LocalHeadStore
from storage.heads.memory import MemoryHeadStore
from storage.media.blobs import Blobs, in_turn
from storage.media.blobs import InParallel as BlobsInParallel
from storage.objects.base import ObjectStore
from storage.objects.batching import GroupCommit
from storage.objects.local import LocalObjectStore
from storage.objects.write_ahead import WriteAheadLog
from storage.types import Offload, UserId, run_inline

if TYPE_CHECKING:
    from app.cloud import Cloud
    from app.http.accesslog import Entry
    from app.ops.assembly import Instruments

_LEAST_THREADS = 8
_STORES_KEPT_S, _POOL_KEPT_S = 5.0, 15.0
"""How long `/ready` goes on with an answer. Asking the pool is a login that fails."""
_NO_OBJECT = "upkeep/ready"
"""Looked for, and never there."""
_HASH_BYTES, _TRIAL_BYTES = 32, 4096
_DAY_MS = 24 * 3600 * 1000

_LOCAL_JOURNAL_BYTES = 64 * 1024
"""The local head store writes a record in microseconds, without waiting for the disk, while an object
costs a disk sync. So the journal of a thousand reviews stays in the record."""

_CUMULATIVE_PAGES = 64
"""Pages of a cumulative delta on AWS, where each host has its own copies: the changes of some six syncs of
ten reviews. So a host that is a few versions behind fetches one object, not one per version."""


def make_pools() -> ThreadPools:
    """The thread pools: more threads than cores, as they mostly wait for the disk."""
    cores = os.cpu_count() or 1
    return ThreadPools(
        quick_threads=max(_LEAST_THREADS, 2 * cores), transfer_threads=max(_LEAST_THREADS, 2 * cores)
    )


def make_pipeline(  # noqa: PLR0913 - collaborators
    settings: Settings,
    pools: ThreadPools,
    authenticator: Authenticator,
    folder: Path,
    *,
    closed_text: Callable[[], str],
    failures: FailureLog,
) -> Pipeline:
    """The HTTP side of one worker process; `folder` is for temporary files."""
    reader = RequestReader(
        unpacked_limit_bytes=settings.unpacked_limit_bytes,
        form_limit_bytes=settings.multipart_limit_bytes,
        folder=folder,
        offload=pools.run,
        address_source=settings.address_source,
        authenticate=authenticator.authenticate,
    )
    return Pipeline(
        reader=reader,
        answers=Answers(pools),
        authenticator=authenticator,
        pools=pools,
        files=Files(pools, folder),
        message_limit_bytes=settings.message_limit_bytes,
        closed_text=closed_text,
        failures=failures,
    )


@dataclass(frozen=True, slots=True)
class Accounts:
    """Users, host keys and authentication, for the server and the admin command."""

    users: UserList
    keys: HostKeys
    file: UsersFile | None
    """The users' file; None where users are in a pool or in the environment alone."""
    authenticator: Authenticator


def build_accounts(
    settings: Settings, cloud: Cloud | None, *, offload: Offload[Any], clock_ms: Callable[[], int]
) -> Accounts:
    """Create users and host keys: of the users' file, of the environment only, or of a user pool.

    Raises: SettingsError if a password hash in SYNC_USERn cannot be used.
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
        users, directory = cloud.pool_users(settings.cognito), cloud.directory(settings.cognito)
    else:
        passwords = Passwords(offload)
        users_file = NoUsersFile() if in_cloud else file
        users = directory = LocalUsers(users_file, _environment(settings), passwords, clock_ms)
    # The file's revision covers users and keys only if both are in the file.
    revision = file.revision if cloud is None else None
    attempts = LoginAttempts(counts, clock_ms, LoginLimits())
    listed = None if in_cloud or settings.cognito is not None else file
    return Accounts(users, keys, listed, Authenticator(directory, keys, attempts, clock_ms, revision))


def _environment(settings: Settings) -> EnvironmentUsers:
    credentials = [(user.name, user.password) for user in settings.fixed_users]
    try:
        return EnvironmentUsers(credentials, hashed=settings.passwords_hashed)
    except ValueError as exc:
        raise SettingsError([str(exc)]) from None


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of one process, and what works on them."""

    heads: HeadStore
    served: HeadStore
    """The head records as requests get them: behind the guard."""
    objects: ObjectStore
    databases: DatabaseStore
    blobs: Blobs
    locks: KeyedLocks
    """Locks of media indexes."""
    maintenance: Maintenance
    due: CompactionQueue
    limits: Limits
    ahead: WriteAheadLog | None
    """Of the local object store; None on AWS."""
    work: WorkFolder
    """For temporary files of this process."""
    close_heads: Callable[[], None]
    in_parallel: InParallel
    """As `map`, for what waits for a store."""

    def close(self) -> None:
        """Close the stores, and remove the temporary files of this process."""
        self.databases.close()
        self.close_heads()
        if self.ahead is not None:
            self.ahead.close()
        self.work.close()


def _nothing() -> None:
    pass


def _unguarded(heads: HeadStore, mark: HeadsMark) -> HeadStore:
    del mark
    return heads


def _closed_after_a_loss(heads: HeadStore, mark: HeadsMark) -> HeadStore:
    """The head store; unavailable as long as the mark shows that its records may be wrong."""
    try:
        if mark.find_fault() is None:
            return heads
    except StorageError:
        pass  # a store is not available: the guard checks again
    return cast(HeadStore, GuardedHeadStore(heads, mark.find_fault, time.monotonic))


def build_cloud(settings: Settings, watch: Callable[[Any], None] = lambda _client: None) -> Cloud | None:
    """The AWS clients; None if everything is local, and then the SDK is not imported."""
    if settings.cloud is None and settings.cognito is None:
        return None
    from app.cloud import Cloud  # noqa: PLC0415 - takes half a second and 30 MB

    return Cloud(settings, watch)


def open_bucket(settings: Settings, bucket: str, prefix: str, offload: Offload[Any]) -> ObjectStore:
    """A bucket beside the service's own, for backups."""
    from app.cloud import Cloud  # noqa: PLC0415 - as above

    return Cloud(settings).objects_in(bucket, prefix, offload)


def open_folder(folder: Path, offload: Offload[Any]) -> ObjectStore:
    """A folder beside the service's own, for backups."""
    return LocalObjectStore(folder, offload)


def open_databases(objects: ObjectStore, stores: Stores) -> DatabaseStore:
    """The databases of a backup, to be read by their chains: it has no head store."""
    return DatabaseStore(
        MemoryHeadStore(),
        objects,
        stores.work.path / f"backup-{new_nonce()}",
        offload=run_inline,
        clock_ms=now_ms,
        nonce=new_nonce,
        configure=configure,
        limits=stores.limits,
    )


def build_stores(  # noqa: PLR0913 - collaborators by name
    settings: Settings,
    cloud: Cloud | None,
    *,
    offload: Offload[Any],
    clock_ms: Callable[[], int],
    guard: Callable[[HeadStore, HeadsMark], HeadStore] = _unguarded,
    in_parallel: InParallel = map,
    metering: Metering | None = None,
) -> Stores:
    """Create the stores of one process: of a worker, or of the admin command while workers run.

    `guard` wraps the head store that `DatabaseStore` uses.
    """
    metering = metering or Metering()
    limits = _limits(settings)
    heads: HeadStore
    objects: ObjectStore
    ahead: WriteAheadLog | None = None
    close_heads: Callable[[], None] = _nothing
    put: Callable[[str, bytes], None] | None = None
    look_up_blobs: BlobsInParallel = in_turn
    if cloud is not None and settings.cloud is not None:
        bucket = cloud.objects(offload)
        heads, objects = metering.heads(cloud.heads()), metering.objects(bucket)
        look_up_blobs = bucket.in_parallel
        limits = msgspec.structs.replace(limits, cumulative_pages=_CUMULATIVE_PAGES)
    else:
        root = _made(settings.data_root)
        limits = msgspec.structs.replace(
            limits, journal_inline_bytes=_LOCAL_JOURNAL_BYTES, journal_fold_bytes=4 * _LOCAL_JOURNAL_BYTES
        )
        # Many small objects become durable with one sync of the disk.
        ahead = WriteAheadLog(root / "ahead", root / "objects")
        local_heads = LocalHeadStore(root / "heads.sqlite", offload)
        close_heads = local_heads.close
        heads = metering.heads(local_heads)
        objects = metering.objects(LocalObjectStore(root, offload, ahead))
        # Commits of several users at the same time share a sync.
        put = GroupCommit(objects)
    work = WorkFolder(_made(settings.cache_dir) / "spool", new_nonce())
    due = CompactionQueue()
    locks = KeyedLocks(threading.RLock)
    served = guard(heads, HeadsMark(heads, objects, new_nonce))
    databases = DatabaseStore(
        served,
        objects,
        _made(settings.cache_dir / "cache"),
        offload=offload,
        clock_ms=clock_ms,
        nonce=new_nonce,
        configure=configure,
        limits=limits,
        due=due.add,
        put=put,
        count=metering.count,
    )
    blobs = Blobs(
        objects,
        fresh_ms=limits.sweep_grace_ms // 2,
        offload=offload,
        in_parallel=look_up_blobs,
    )
    check = RestoreCheck(
        heads,
        objects,
        blobs,
        limits,
        scratch=work.path,
        nonce=new_nonce,
        offload=offload,
        in_parallel=in_parallel,
    )
    maintenance = Maintenance(
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
        quota=default_quota(settings),
        check=check.run,
    )
    return Stores(
        heads,
        served,
        objects,
        databases,
        blobs,
        locks,
        maintenance,
        due,
        limits,
        ahead,
        work,
        close_heads,
        in_parallel,
    )


@dataclass(frozen=True, slots=True)
class Process:
    """One worker process: its application, its background work, and how to close it."""

    wsgi_app: WsgiApp
    run_forever: Callable[[], None]
    """The maintenance loop. Never returns; run it in a greenlet of its own."""
    watch_orders: Callable[[], None]
    """Follows the operator's orders. Never returns; for a greenlet of its own."""
    watch: Callable[[], None] | None
    """As `run_forever`; None where there are no metrics."""
    observe: Callable[[Entry], None] | None
    """To be told of each request that has ended."""
    has_users: Callable[[], bool]
    close: Callable[[], None]


def default_quota(settings: Settings) -> Quota:
    """What a user may keep who has no quota of their own."""
    return Quota(settings.quota_collection_bytes, settings.quota_media_bytes, settings.quota_media_files)


def build_collections(
    settings: Settings,
    stores: Stores,
    *,
    offload: Offload[Any],
    quota_of: Callable[[UserId], Quota] = lambda _user: Quota(),
) -> SyncService:
    """Create the service of the collection protocol; also used by the admin command for imports."""
    return SyncService(
        stores.databases,
        Codec(),
        stores.work.path,
        offload=offload,
        clock_ms=now_ms,
        nonce=new_nonce,
        limit_bytes=settings.unpacked_limit_bytes,
        quota_of=quota_of,
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


def build(settings: Settings) -> WsgiApp:
    """The WSGI application of one worker process."""
    return build_process(settings).wsgi_app


def build_process(settings: Settings, metrics_folder: Path | None = None) -> Process:
    """Everything that one worker process needs; to be called after the fork.

    `metrics_folder` has the metrics of all workers; None: there are none.
    """
    pools = make_pools()
    offload = pools.run
    instruments = _instruments(metrics_folder, offload)
    metering = Metering() if instruments is None else instruments.metering
    cloud = build_cloud(settings, metering.client)
    accounts = build_accounts(settings, cloud, offload=offload, clock_ms=now_ms)
    stores = build_stores(
        settings, cloud, offload=offload, clock_ms=now_ms, guard=_closed_after_a_loss, metering=metering
    )
    orders = OrdersWatch(OrdersRecord(stores.heads, now_ms, new_nonce), time.sleep, default_quota(settings))
    orders.look()
    collections = build_collections(settings, stores, offload=offload, quota_of=orders.quota_of)
    scratch = stores.work.path
    gate = build_gate(stores, offload=offload)
    media = MediaService(
        gate,
        stores.blobs,
        offload=offload,
        clock_ms=now_ms,
        scratch=scratch,
        limit_bytes=settings.unpacked_limit_bytes,
        quota_of=orders.quota_of,
    )
    pipeline = make_pipeline(
        settings,
        pools,
        accounts.authenticator,
        scratch,
        closed_text=lambda: orders.closed_text,
        failures=FailureLog(stores.objects, nonce=new_nonce, start_thread=in_thread, sleep=time.sleep),
    )

    def has_users() -> bool:
        return settings.cognito is not None or any(True for _ in accounts.users.list())

    maintenance_loop = MaintenanceLoop(
        stores.maintenance,
        stores.due,
        sleep=time.sleep,
        schedule=schedule_of(settings),
        monotonic_s=time.monotonic,
        is_closed=lambda: bool(orders.closed_text),
        before=build_deletions(accounts, stores).carry_out,
    )

    def run_forever() -> None:
        # Compaction must not take threads from small requests.
        with pools.transfer():
            maintenance_loop.run_forever()

    add_pages = None
    if settings.has_pages:
        add_pages = build_pages(settings, accounts, stores, gate=gate, collections=collections, pools=pools)
    readiness = Readiness(_services(settings, cloud, accounts, stores, offload), time.monotonic)
    if instruments is None or settings.metrics_port is None:
        app: Any = make_application(pipeline, collections, media, readiness.look, add_pages)
        return Process(app.wsgi_app, run_forever, orders.watch, None, None, has_users, stores.close)
    watch = instruments.watch(readiness, stores.objects, stores.databases, lambda: len(stores.due), new_nonce)
    app = make_application(pipeline, collections, media, watch.look, add_pages)
    return Process(
        with_private_port(app.wsgi_app, settings.metrics_port, instruments.meters, watch.look),
        run_forever,
        orders.watch,
        lambda: watch.run(time.sleep),
        instruments.observe,
        has_users,
        stores.close,
    )


def _instruments(metrics_folder: Path | None, offload: Offload[Any]) -> Instruments | None:
    if metrics_folder is None:
        return None
    from app.ops.assembly import Instruments  # noqa: PLC0415 - see there

    return Instruments(metrics_folder, offload)


def _services(
    settings: Settings, cloud: Cloud | None, accounts: Accounts, stores: Stores, offload: Offload[Any]
) -> dict[str, Service]:
    """What a server needs to be ready, by name, and how to look whether it answers."""

    def look_for_keys() -> None:
        accounts.keys.find(bytes(_HASH_BYTES))

    def look_for_heads() -> None:
        stores.served.find(STORE)

    def look_for_objects() -> None:
        stores.objects.find(_NO_OBJECT)

    folders = [stores.work.path]
    if settings.cloud is None:
        folders.append(settings.data_root / "tmp")

    def write() -> None:
        for folder in folders:
            offload(partial((folder / "ready").write_bytes, bytes(_TRIAL_BYTES)))

    services = {
        "heads": Service(look_for_heads, _STORES_KEPT_S),
        "objects": Service(look_for_objects, _STORES_KEPT_S),
        "keys": Service(look_for_keys, _STORES_KEPT_S),
        "disk": Service(write, _STORES_KEPT_S),
    }
    if cloud is not None and settings.cognito is not None:
        pool = cloud.directory(settings.cognito)
        services["users"] = Service(pool.check, _POOL_KEPT_S)
    return services


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
) -> AddPages:
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


def schedule_of(settings: Settings) -> Schedule:
    """The schedule of daily maintenance: one process per host; none if the heads are in a table.

    Many hosts share a table, and each would process all users; a scheduled `ankisyncctl maintain` does it
    there.
    """
    if settings.cloud is not None and settings.cloud.heads is Heads.DYNAMODB:
        return Never()
    return Daily(settings.cache_dir, now_ms)


def _limits(settings: Settings) -> Limits:
    chosen: dict[str, int] = {}
    if settings.cache_bytes is not None:
        chosen["base_bytes"] = settings.cache_bytes
    if settings.history_days is not None:
        chosen["history_ms"] = settings.history_days * _DAY_MS
    return Limits(**chosen)


def now_ms() -> int:
    """The time by this machine's clock."""
    return time.time_ns() // 1_000_000


def new_nonce() -> str:
    """A random name that is unique."""
    return secrets.token_hex(8)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
