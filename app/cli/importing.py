"""`ankisyncctl import`: brings users of other servers over, with the USNs that clients know, and packages."""

from __future__ import annotations

import contextlib
import functools
import itertools
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import apsw
import click

from app.cli import official, store
from app.cli.audit import Change
from app.cli.context import Admin
from app.cli.output import Row, show
from app.cli.progress import shown
from app.main import Stores, build_collections, build_gate, new_nonce, now_ms
from app.media.unzip import fault_of_name
from app.sync.transfer import OK
from storage.collection.package import make_own, read_package
from storage.database.origin import Kind, name_commit
from storage.database.store import Commit
from storage.errors import Corrupt
from storage.media.blobs import LARGE_BYTES, Blobs, Digester, NewBlob
from storage.media.index import FileFacts, MediaIndex, create_empty
from storage.types import DatabaseId, DatabaseKind, UserId, run_inline

_PIECE_BYTES = 1 << 20
_FILES_AT_ONCE = 500


@click.command("import", cls=Change)
@click.argument("base", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--user", "names", multiple=True, help="Only this user; may be given several times.")
@click.option("--replace", is_flag=True, help="Also where the user has data here already.")
@store.as_json
@click.pass_obj
def import_official(
    admin: Admin, base: Path | None, names: tuple[str, ...], *, replace: bool, as_json: bool
) -> None:
    """Bring over the users of another server, or one collection.

    BASE is the folder of an official server (SYNC_BASE, if it is left out) or of an older Python server (the
    folder above or at `collections`): devices go on as before. Or it is a .colpkg file, for the one --user:
    each device then has to choose download. The users must exist here; BASE is only read; stop that server
    first. If it was broken off, run it again.
    """
    base = base or admin.settings.official_base
    if base is None:
        raise click.UsageError("give BASE, or set SYNC_BASE")
    if base.is_file():
        _import_package(admin, base, names, replace=replace, as_json=as_json)
        return
    folders = [folder for folder in official.list_users(base) if not names or folder.name in names]
    missing = sorted(set(names) - {folder.name for folder in folders})
    failures = [f"{name}: {base} has no such user" for name in missing]
    if not folders and not failures:
        failures.append(f"{base} has no user of an official or older Python server")
    rows: list[Row] = []
    with admin.stores() as stores:
        importer = Importer(admin, stores)
        for folder in folders:
            try:
                done = importer.bring(folder, replace=replace)
                rows.append({"user": folder.name, "imported": done})
                if not as_json:
                    click.echo(f"{folder.name}: {done}")
            except (official.OfficialError, ImportRefused) as exc:
                failures.append(f"{folder.name}: {exc}")
    if as_json:
        show(rows, ("user", "imported"), as_json=True)
    if failures:
        raise click.ClickException("; ".join(failures))


def _import_package(
    admin: Admin, package: Path, names: tuple[str, ...], *, replace: bool, as_json: bool
) -> None:
    if len(names) != 1:
        raise click.UsageError("a package is imported for one --user")
    user = admin.find_user(names[0]).id
    with admin.stores() as stores:
        try:
            done = PackageImporter(admin, stores).bring(user, package, replace=replace)
        except ImportRefused as exc:
            raise click.ClickException(f"{package}: {exc}") from exc
    if as_json:
        show([{"user": names[0], "imported": done}], ("user", "imported"), as_json=True)
        return
    click.echo(f"{names[0]}: {done}. Choose download on each device when it next syncs.")


class ImportRefused(Exception):
    """One user cannot be brought over; the text says why."""


class Importer:
    """Brings one user after the other over; each is whole or not begun, collection and media apart."""

    def __init__(self, admin: Admin, stores: Stores) -> None:
        self._admin, self._stores = admin, stores
        self._scratch = stores.work.path
        self._collections = build_collections(admin.settings, stores, offload=run_inline)

    def bring(self, folder: official.UserFolder, *, replace: bool) -> str:
        """What was brought, in words; what a run before this one has brought is left as it is.

        Raises: OfficialError, ImportRefused.
        """
        found = self._admin.users.find(folder.name)
        if found is None:
            raise ImportRefused("there is no such user here: add it first")
        here = set() if replace else {database.kind for database in self._stores.heads.list(found.id)}
        done = []
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="import-") as work:
            if folder.collection.is_file() and DatabaseKind.COLLECTION not in here:
                done.append(self._bring_collection(found.id, folder, Path(work, "collection")))
            has_media = folder.media_database.is_file() or (folder.path / folder.files).is_dir()
            if has_media and DatabaseKind.MEDIA not in here:
                done.append(self._bring_media(found.id, folder, Path(work)))
        if not done:
            raise ImportRefused("has data here already; --replace puts this in its place")
        return ", ".join(done)

    def _bring_collection(self, user: UserId, folder: official.UserFolder, copy: Path) -> str:
        """As a full upload, with all its checks."""
        official.copy_database(folder.collection, copy)
        answer = self._collections.upload(user, copy, kind=Kind.OPERATOR)
        if answer != OK:
            raise ImportRefused(f"the collection was refused: {answer}")
        head = self._stores.databases.head(DatabaseId(user, DatabaseKind.COLLECTION))
        return f"{head.stamps['notes']} notes"

    def _bring_media(self, user: UserId, folder: official.UserFolder, work: Path) -> str:
        if folder.media_database.is_file():
            official.copy_database(folder.media_database, work / "media")
            last_usn, files = official.read_media(work / "media")
        else:
            files = official.list_media(folder)
            last_usn = len(files)
        missing: list[str] = []
        create_empty(work / "index")
        with contextlib.closing(apsw.Connection(str(work / "index"))) as connection:
            connection.pragma("synchronous", "off")  # the store makes it durable
            index = MediaIndex(connection)
            with connection:
                rows = shown(files, len(files), f"{folder.name}: media")
                index.restore(self._rows(rows, folder, work / "blob", missing), last_usn)
            stamps = index.stamps()
        database = DatabaseId(user, DatabaseKind.MEDIA)
        name = name_commit(Kind.OPERATOR, new_nonce())
        commit = Commit(commit_id=name, answer=b"", now_ms=now_ms(), stamps=stamps, session=None)
        self._stores.databases.replace(
            database, self._stores.databases.head(database), work / "index", commit
        )
        lost = f" ({len(missing)} lost there already)" if missing else ""
        return f"{stamps['count']} media files{lost}"

    def _rows(
        self,
        files: Iterable[official.OfficialFile],
        folder: official.UserFolder,
        copy: Path,
        missing: list[str],
    ) -> Iterator[tuple[int, str, FileFacts | None, int]]:
        """Index rows; the contents are in the store before their row is given.

        A file that is lost, has other bytes than devices were told, or a name that no file may have, gets
        no row, as with the official server: a tombstone would delete it on every device.
        """
        for file in files:
            if not file.size_bytes:
                yield file.usn, file.name, None, file.mtime_s
                continue
            path = official.find_media_file(folder, file.name)
            if path is None or fault_of_name(file.name):
                missing.append(file.name)
                continue
            facts = put_file(self._stores.blobs, path, copy)
            if file.sha1 and file.sha1 != facts.sha1:
                missing.append(file.name)
                continue
            yield file.usn, file.name, facts, file.mtime_s


class PackageImporter:
    """Puts a .colpkg file in the place of a user's collection, and adds its media."""

    def __init__(self, admin: Admin, stores: Stores) -> None:
        self._stores = stores
        self._collections = build_collections(admin.settings, stores, offload=run_inline)

    def bring(self, user: UserId, package: Path, *, replace: bool) -> str:
        """What was brought, in words; media first, so that no card comes before its picture.

        Raises: ImportRefused.
        """
        database = DatabaseId(user, DatabaseKind.COLLECTION)
        head = self._stores.databases.head(database)
        if head.version and not replace:
            raise ImportRefused("the user has a collection here already; --replace puts this in its place")
        with tempfile.TemporaryDirectory(dir=self._stores.work.path, prefix="import-") as work:
            try:
                path, media = read_package(package, Path(work))
            except Corrupt as exc:
                raise ImportRefused(f"it is no package that Anki can import: {exc.found}") from exc
            count = self._add_media(user, media, Path(work, "blob"))
            make_own(path, head.stamps, now_ms())
            answer = self._collections.upload(user, path)
        if answer != OK:
            raise ImportRefused(f"the collection was refused: {answer}")
        notes = self._stores.databases.head(database).stamps["notes"]
        return f"{notes} notes, {count} media files"

    def _add_media(self, user: UserId, folder: Path, copy: Path) -> int:
        """Add the files, each batch by one commit; how many there are."""
        gate = build_gate(self._stores, offload=run_inline)
        paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.stat().st_size]
        left = iter(shown(paths, len(paths), "Media"))
        while batch := list(itertools.islice(left, _FILES_AT_ONCE)):
            changes = []
            for path in batch:
                name = unicodedata.normalize("NFC", path.name)
                if fault := fault_of_name(name):
                    raise ImportRefused(f"{name!r}: {fault}")
                changes.append((name, put_file(self._stores.blobs, path, copy)))
            gate.change(user, functools.partial(_apply, changes))
        return len(paths)


def _apply(changes: list[tuple[str, FileFacts]], index: MediaIndex) -> bool:
    return index.apply(changes, now_ms() // 1000)


def put_file(blobs: Blobs, path: Path, copy: Path) -> FileFacts:
    """Put one file into the store; a large one by way of a copy, which the store may move away."""
    digester = Digester()
    is_large = path.stat().st_size > LARGE_BYTES
    content = bytearray()
    with path.open("rb") as source, copy.open("wb") as target:
        while piece := source.read(_PIECE_BYTES):
            digester.update(piece)
            if is_large:
                target.write(piece)
            else:
                content += piece
    facts = digester.facts()
    blobs.put_new([NewBlob(facts.sha256, copy if is_large else bytes(content))])
    return facts
