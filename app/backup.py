"""Backups of the whole service, or of some users, in another object store: `ankisyncctl backup`.

A backup is made beside the running service. Head records are read first and the objects that they name are
copied then: an object that leaves a chain is kept for the days of the history, so each is still there.
Objects never change, so those that an earlier backup has copied are not copied again. `storage/README.md`
("Backups") has the format.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from app.auth.hostkeys import HostKeys, KeyRecord
from app.media.gate import IndexGate
from storage.collection.oneway import force_one_way_of
from storage.database.format import envelope, keys
from storage.database.history import History, RestorePoint
from storage.database.maintenance.mark import list_databases
from storage.database.rebuild import TOKENS_BETWEEN
from storage.database.store import Commit, DatabaseStore
from storage.errors import Conflict, Corrupt, NotFound
from storage.heads.base import HeadStore
from storage.media.blobs import PREFIX as BLOBS
from storage.media.blobs import key_of
from storage.media.index import MediaIndex
from storage.objects.base import ObjectStat, ObjectStore
from storage.objects.now import read_clock
from storage.types import DatabaseId, DatabaseKind, Head, UserId

_MANIFESTS: Final = "backups/"
_PARTS: Final = "backup-parts/"
_SMALL_BYTES: Final = 1 << 20
_TRIES: Final = 5
_GRACE_MS: Final = 24 * 3_600_000
"""What no backup names is deleted when it is as old as this: another backup may be being made."""
_YOUNG_MS: Final = 6 * 3_600_000
_BATCH: Final = 500

UserRow = tuple[str, str, str, bytes, int, int]
"""A row of the users' file: id, name, hash of the password, stamp, and two times."""


T = TypeVar("T")


class Target(Protocol):
    """What a backup is written to: an object store, or an archive."""

    def put(self, key: str, content: bytes | memoryview) -> None:
        """As `ObjectStore.put`."""

    def put_file(self, key: str, path: Path) -> None:
        """As `ObjectStore.put_file`."""

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """As `ObjectStore.list`."""


class Source(Protocol):
    """What a backup is read from: an object store, or an archive."""

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """As `ObjectStore.read`."""

    def stream(self, key: str) -> Iterator[bytes]:
        """As `ObjectStore.stream`."""

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """As `ObjectStore.list`."""


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """One database of a backup."""

    kind: DatabaseKind
    head: Head
    """Without a session."""
    objects: tuple[str, ...]
    """Keys of its chain and of its history."""
    contents: tuple[bytes, ...] = ()
    """SHA-256 of the files that a media index names."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """What a backup has of one user."""

    user: UserId
    databases: tuple[Kept, ...]


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """One backup. It is written last, so all that it names is there."""

    created_ms: int
    is_whole: bool
    """Of all users."""
    parts: dict[UserId, str]
    """Keys of the parts."""
    users: tuple[UserRow, ...]
    host_keys: tuple[KeyRecord, ...]
    faults: tuple[str, ...]
    """Users whose newest version could not be copied, and why."""


class Accounts(Protocol):
    """The users and logins that a backup takes along."""

    def export_users(self) -> list[UserRow]:
        """All users of the users' file; none if there is no such file."""

    def import_users(self, rows: Iterable[UserRow]) -> None:
        """Add those users whose id and name are free."""


class Refused(Exception):
    """A restore that would overwrite data."""


class Restored(msgspec.Struct, frozen=True):
    """What became of one database."""

    database: DatabaseId
    version: int
    is_on_top: bool
    """It became a new version of a database that was there."""


class BackupLog:
    """The backups in one place."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def list(self) -> list[tuple[str, Manifest]]:
        """Names and contents of all backups, oldest first."""
        found = [stat.key for stat in self._source.list(_MANIFESTS)]
        return [(key.removeprefix(_MANIFESTS), self._read(key)) for key in sorted(found)]

    def find(self, name: str | None) -> Manifest:
        """The backup of a name, or the newest one. Raises: NotFound."""
        names = sorted(stat.key.removeprefix(_MANIFESTS) for stat in self._source.list(_MANIFESTS))
        if name is None and names:
            name = names[-1]
        if name not in names:
            raise NotFound(f"there is no backup {name}" if name else "there is no backup")
        return self._read(_MANIFESTS + str(name))

    def read_part(self, key: str) -> Part:
        """What a backup has of a user. Raises: NotFound, Corrupt."""
        return _unsealed(key, envelope.BACKUP_PART, self._source.read(key), Part)

    def _read(self, key: str) -> Manifest:
        return _unsealed(key, envelope.BACKUP, self._source.read(key), Manifest)


def _unsealed(key: str, magic: bytes, content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(envelope.unseal(key, magic, content), type=kind)
    except msgspec.MsgspecError as exc:
        raise Corrupt(key, "a backup", str(exc)) from exc


class BackupMaker:
    """Makes one backup."""

    def __init__(  # noqa: PLR0913 - collaborators by name
        self,
        heads: HeadStore,
        objects: ObjectStore,
        databases: DatabaseStore,
        history: History,
        *,
        scratch: Path,
        clock_ms: Callable[[], int],
        nonce: Callable[[], str],
    ) -> None:
        self._heads, self._objects, self._databases, self._history = heads, objects, databases, history
        self._scratch, self._clock_ms, self._nonce = scratch, clock_ms, nonce

    def make(
        self,
        target: Target,
        log: BackupLog | None,
        accounts: Accounts,
        host_keys: HostKeys,
        users: frozenset[UserId] | None = None,
    ) -> tuple[str, Manifest]:
        """Copy what is not there yet, and write the manifest; its name and content.

        `log` reads the backups that are in the target. A user whose newest version cannot be read is taken
        over from the last of them that has it, and named in `faults`.
        """
        earlier_parts: dict[UserId, str] = {}
        for _, manifest in log.list() if log is not None else ():
            earlier_parts.update(manifest.parts)
        now_ms = self._clock_ms()
        there = {stat.key for prefix in (keys.DATABASES, BLOBS, _PARTS) for stat in target.list(prefix)}
        copying = _Copying(self._objects, target, there, self._scratch)
        chosen = users
        if chosen is None:
            chosen = frozenset(database.user for database in list_databases(self._heads))
        parts: dict[UserId, str] = {}
        faults = []
        for user in sorted(chosen):
            earlier: Part | None = None
            part: Part | None
            if log is not None and user in earlier_parts:
                earlier = log.read_part(earlier_parts[user])
            try:
                part = self._copy_user(user, copying, earlier)
            except (Corrupt, NotFound, Conflict) as exc:
                faults.append(f"{user}: {exc}")
                part = earlier
            if part is not None and part.databases:
                parts[user] = _put_part(target, there, part)
        rows = [row for row in accounts.export_users() if users is None or row[0] in users]
        found = [record for record in host_keys.list() if users is None or record.user in users]
        manifest = Manifest(now_ms, users is None, parts, tuple(rows), tuple(found), tuple(faults))
        name = self._next_name(target, now_ms)
        target.put(_MANIFESTS + name, envelope.seal(envelope.BACKUP, msgspec.msgpack.encode(manifest)))
        return name, manifest

    def _next_name(self, target: Target, now_ms: int) -> str:
        """A name behind all others, whatever the clock says."""
        last = max((stat.key.removeprefix(_MANIFESTS) for stat in target.list(_MANIFESTS)), default="0-")
        moment = f"{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%dT%H%M%S}Z"
        return f"{int(last.partition('-')[0]) + 1:08}-{moment}-{self._nonce()}"

    def _copy_user(self, user: UserId, copying: _Copying, earlier: Part | None) -> Part:
        known = {kept.kind: kept for kept in earlier.databases} if earlier is not None else {}
        found = []
        for kind in DatabaseKind:
            kept = self._copy_database(DatabaseId(user, kind), copying, known.get(kind))
            if kept is not None:
                found.append(kept)
        return Part(user, tuple(found))

    def _copy_database(self, database: DatabaseId, copying: _Copying, known: Kept | None) -> Kept | None:
        """Try again if the head moved so far meanwhile that what it named is gone."""
        for tried in range(_TRIES):
            head = self._heads.find(database)
            if head is None or head.version == 0:
                return None
            head = replace(head, session=None)
            if known is not None and _is_same(known.head, head) and copying.has(known):
                return replace(known, head=head)
            try:
                return self._copy(database, head, copying)
            except (NotFound, Conflict):
                if tried == _TRIES - 1:
                    raise
        raise AssertionError

    def _copy(self, database: DatabaseId, head: Head, copying: _Copying) -> Kept:
        contents = self._contents(database, head) if database.kind is DatabaseKind.MEDIA else ()
        for sha256 in contents:
            copying.copy(key_of(sha256), sha256)
        named = {keys.entry_key(database, entry): entry.sha256 for entry in head.chain}
        for key, sha256 in named.items():
            copying.copy(key, sha256, with_end=True)
        return Kept(database.kind, head, (*named, *self._copy_history(database, head, copying)), contents)

    def _contents(self, database: DatabaseId, head: Head) -> tuple[bytes, ...]:
        checkout = self._databases.checkout(database, head)
        with self._databases.discarding(checkout):
            index = MediaIndex(checkout.connection)
            found = tuple(sorted({facts.sha256 for _, facts in index.list_files()}))
        self._databases.release(checkout)
        return found

    def _copy_history(self, database: DatabaseId, head: Head, copying: _Copying) -> list[str]:
        """Those history objects of which everything is still there; a sweep may be at the oldest."""
        copied = []
        for departed in self._history.list_departed(database):
            name = keys.parse(database, departed.key)
            if name is None or (name.chain_revision or 0) >= head.chain_revision:
                continue
            try:
                chain = {keys.entry_key(database, e): e.sha256 for e in departed.departure.chain}
                for key, sha256 in chain.items():
                    copying.copy(key, sha256, with_end=True)
                copying.copy(departed.key, None)
            except (NotFound, Corrupt):
                continue
            copied += [*chain, departed.key]
        return list(dict.fromkeys(copied))


class _Copying:
    """Copies objects that are not in the target yet, and proves each on the way."""

    def __init__(self, source: Source, target: Target, there: set[str], scratch: Path) -> None:
        self._source, self._target, self._there, self._scratch = source, target, there, scratch

    def has(self, kept: Kept) -> bool:
        """Whether all of a database is in the target."""
        return self._there.issuperset(kept.objects) and self._there.issuperset(map(key_of, kept.contents))

    def copy(self, key: str, sha256: bytes | None, *, with_end: bool = False) -> None:
        """Copy an object with this SHA-256: of all bytes, or `with_end` of all but the 32 that repeat it.

        Raises: NotFound, Corrupt.
        """
        if key in self._there:
            return
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            for piece in self._source.stream(key):
                file.write(piece)
            size = file.tell()
            file.seek(0)
            digest = hashlib.sha256()
            left = size - 32 if with_end else size
            while left > 0 and (piece := file.read(min(left, _SMALL_BYTES))):
                digest.update(piece)
                left -= len(piece)
            if sha256 is not None and (digest.digest() != sha256 or (with_end and file.read() != sha256)):
                raise Corrupt(key, sha256.hex(), digest.hexdigest())
            file.seek(0)
            if size <= _SMALL_BYTES:
                self._target.put(key, file.read())
            else:
                self._put_large(key, file)
        self._there.add(key)

    def _put_large(self, key: str, file: Iterable[bytes]) -> None:
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="copy-") as folder:
            path = Path(folder, "object")
            with path.open("wb") as copy:
                copy.writelines(file)
            self._target.put_file(key, path)


def _is_same(one: Head, other: Head) -> bool:
    return (one.version, one.checksum, one.chain) == (other.version, other.checksum, other.chain)


def _put_part(target: Target, there: set[str], part: Part) -> str:
    content = envelope.seal(envelope.BACKUP_PART, msgspec.msgpack.encode(part))
    key = f"{_PARTS}{part.user}/{hashlib.sha256(content).hexdigest()}"
    if key not in there:
        target.put(key, content)
    return key


def remove_older(objects: ObjectStore, kept: int, now_ms: int) -> int:
    """Remove all backups but the last `kept` of the same users, and what no backup names; how many objects.

    `now_ms` is the time by the target's clock. Manifests go first, so it may be broken off and run again.
    """
    log = BackupLog(objects)
    groups: dict[frozenset[UserId] | None, list[str]] = {}
    for name, manifest in log.list():
        group = None if manifest.is_whole else frozenset(manifest.parts)
        groups.setdefault(group, []).append(name)
    gone = [_MANIFESTS + name for names in groups.values() for name in names[:-kept]]
    objects.delete(gone)
    needed: set[str] = set()
    for _, manifest in log.list():
        for key in set(manifest.parts.values()) - needed:
            needed.add(key)
            for kept_database in log.read_part(key).databases:
                needed.update(kept_database.objects, map(key_of, kept_database.contents))
    dead = [
        stat.key
        for prefix in (keys.DATABASES, BLOBS, _PARTS)
        for stat in objects.list(prefix)
        if stat.key not in needed
    ]
    removed = len(gone)
    for at in range(0, len(dead), _BATCH):
        removed += len(objects.delete_old(dead[at : at + _BATCH], now_ms - _GRACE_MS))
    return removed


class BackupRestorer:
    """Brings a backup into a store."""

    def __init__(  # noqa: PLR0913 - collaborators by name
        self,
        heads: HeadStore,
        objects: ObjectStore,
        databases: DatabaseStore,
        gate: IndexGate,
        *,
        scratch: Path,
        clock_ms: Callable[[], int],
        nonce: Callable[[], str],
    ) -> None:
        self._heads, self._objects, self._databases, self._gate = heads, objects, databases, gate
        self._scratch, self._clock_ms, self._nonce = scratch, clock_ms, nonce

    def restore(
        self,
        source: Source,
        parts: list[Part],
        open_backup: Callable[[], DatabaseStore],
        *,
        overwrites: bool,
    ) -> Iterator[Restored]:
        """Restore users, one database after the other; lazy. Each is there whole or not at all.

        May be broken off and run again. A database that is there stays, and what the backup has becomes its
        next version, if that was asked for; `open_backup` opens the databases of the backup for this.
        Raises: Refused, before anything is written.
        """
        work = [(DatabaseId(part.user, kept.kind), kept) for part in parts for kept in part.databases]
        taken = [database for database, kept in work if self._is_taken(database, kept)]
        if taken and not overwrites:
            names = ", ".join(map(str, taken[:5])) + (" and more" if len(taken) > 5 else "")
            raise Refused(f"there is data already: {names}")
        # A content that is old may be in the hands of a sweep: it is put anew.
        young_ms = read_clock(self._objects, self._clock_ms) - _YOUNG_MS
        there = {stat.key for stat in self._objects.list(BLOBS) if stat.modified_ms > young_ms}
        copying = _Copying(source, self._objects, there, self._scratch)
        for database, kept in work:
            for sha256 in kept.contents:
                copying.copy(key_of(sha256), sha256)
            if database in taken:
                yield self._put_on_top(database, kept, open_backup())
            else:
                yield self._put(database, kept, copying)

    def _is_taken(self, database: DatabaseId, kept: Kept) -> bool:
        """Whether anything is there but what a restore of this backup that was broken off has left."""
        head = self._heads.find(database)
        if head is not None and head.version:
            return not (_is_same(head, kept.head) and head.token > kept.head.token)
        return any(stat.key not in kept.objects for stat in self._objects.list(keys.prefix(database)))

    def _put(self, database: DatabaseId, kept: Kept, copying: _Copying) -> Restored:
        sums = {keys.entry_key(database, entry): entry.sha256 for entry in kept.head.chain}
        for key in kept.objects:
            copying.copy(key, sums.get(key), with_end=key in sums)
        found = self._heads.find(database)
        if found is None or not found.version:
            token = max(kept.head.token, found.token if found is not None else 0) + TOKENS_BETWEEN
            self._heads.replace_head(database, found, replace(kept.head, token=token))
        return Restored(database, kept.head.version, is_on_top=False)

    def _put_on_top(self, database: DatabaseId, kept: Kept, backup: DatabaseStore) -> Restored:
        """Make it the next version. What it replaces stays in the history."""
        if database.kind is DatabaseKind.MEDIA:
            return self._put_media_on_top(database, kept, backup)
        head, chain = self._databases.head(database), kept.head.chain
        now_ms = self._clock_ms()
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="restore-") as folder:
            path = Path(folder, "database")
            backup.export(database, RestorePoint(chain[-1].last, chain[-1].time_ms, chain), path)
            commit = Commit(self._nonce(), b"", now_ms, force_one_way_of(path, head.stamps, now_ms), None)
            after = self._databases.replace(database, head, path, commit)
        return Restored(database, after.version, is_on_top=True)

    def _put_media_on_top(self, database: DatabaseId, kept: Kept, backup: DatabaseStore) -> Restored:
        """Files have the content that they had; those that came later stay. Devices follow when they sync."""
        checkout = backup.rebuild(database, kept.head.chain)
        try:
            older = MediaIndex(checkout.connection)

            def change(index: MediaIndex) -> bool:
                return index.apply(list(index.missing_from(older)), self._clock_ms() // 1000)

            self._gate.change(database.user, change)
        finally:
            backup.discard(checkout)
        return Restored(database, self._databases.head(database).version, is_on_top=True)
