"""`ankisyncctl import`: brings the users of an official server over, with the USNs that clients know."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw
import click

from app.cli import official
from app.cli.context import Admin
from app.history import OPERATOR
from app.main import Stores, build_collections, new_nonce, now_ms
from app.sync.transfer import OK
from storage.database.store import Commit
from storage.media.blobs import LARGE_BYTES, Digester, NewBlob
from storage.media.index import FileFacts, MediaIndex, create_empty
from storage.types import DatabaseId, DatabaseKind, UserId, run_here

_PIECE_BYTES = 1 << 20


@click.command("import")
@click.argument("base", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--user", "names", multiple=True, help="Only this user; may be given several times.")
@click.option("--replace", is_flag=True, help="Also where the user has data here already.")
@click.pass_obj
def import_official(admin: Admin, base: Path | None, names: tuple[str, ...], *, replace: bool) -> None:
    """Bring over the users of an official server that kept its data in BASE, or in SYNC_BASE.

    The users must exist here, as SYNC_USERn or in the list. BASE is only read; stop that server first.
    """
    base = base or admin.settings.official_base
    if base is None:
        raise click.UsageError("give BASE, or set SYNC_BASE")
    folders = [folder for folder in official.list_users(base) if not names or folder.name in names]
    missing = sorted(set(names) - {folder.name for folder in folders})
    failures = [f"{name}: {base} has no such user" for name in missing]
    if not folders and not failures:
        failures.append(f"{base} has no user of an official server")
    with admin.stores() as stores:
        importer = Importer(admin, stores)
        for folder in folders:
            try:
                click.echo(f"{folder.name}: {importer.bring(folder, replace=replace)}")
            except (official.OfficialError, ImportRefused) as exc:
                failures.append(f"{folder.name}: {exc}")
    if failures:
        raise click.ClickException("; ".join(failures))


class ImportRefused(Exception):
    """One user cannot be brought over; the text says why."""


class Importer:
    """Brings one user after the other over; each is whole or not begun, collection and media apart."""

    def __init__(self, admin: Admin, stores: Stores) -> None:
        self._admin, self._stores = admin, stores
        self._scratch = stores.work.path
        self._collections = build_collections(admin.settings, stores, offload=run_here)

    def bring(self, folder: Path, *, replace: bool) -> str:
        """What was brought, in words. Raises: OfficialError, ImportRefused."""
        found = self._admin.users.find(folder.name)
        if found is None:
            raise ImportRefused("there is no such user here: add it first")
        if not replace and any(self._stores.heads.list(found.id)):
            raise ImportRefused("has data here already; --replace puts this in its place")
        done = []
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="import-") as work:
            if (folder / official.COLLECTION).is_file():
                done.append(self._bring_collection(found.id, folder, Path(work, "collection")))
            if (folder / official.MEDIA).is_file():
                done.append(self._bring_media(found.id, folder, Path(work)))
        return ", ".join(done)

    def _bring_collection(self, user: UserId, folder: Path, copy: Path) -> str:
        """As a full upload, with all its checks."""
        official.copy_database(folder / official.COLLECTION, copy)
        answer = self._collections.upload(user, copy, OPERATOR)
        if answer != OK:
            raise ImportRefused(f"the collection was refused: {answer}")
        head = self._stores.databases.head(DatabaseId(user, DatabaseKind.COLLECTION))
        return f"{head.stamps['notes']} notes"

    def _bring_media(self, user: UserId, folder: Path, work: Path) -> str:
        official.copy_database(folder / official.MEDIA, work / "media")
        last_usn, files = official.read_media(work / "media")
        missing: list[str] = []
        create_empty(work / "index")
        with contextlib.closing(apsw.Connection(str(work / "index"))) as connection:
            connection.pragma("synchronous", "off")  # the store makes it durable
            index = MediaIndex(connection)
            with connection:
                index.restore(self._rows(files, folder, work / "blob", missing), last_usn)
            stamps = index.stamps()
        database = DatabaseId(user, DatabaseKind.MEDIA)
        commit = Commit(
            commit_id=new_nonce(), answer=b"", now_ms=now_ms(), stamps=stamps, session=None, origin=OPERATOR
        )
        self._stores.databases.replace(
            database, self._stores.databases.head(database), work / "index", commit
        )
        lost = f" ({len(missing)} lost there already)" if missing else ""
        return f"{stamps['count']} media files{lost}"

    def _rows(
        self, files: Iterator[official.OfficialFile], folder: Path, copy: Path, missing: list[str]
    ) -> Iterator[tuple[int, str, FileFacts | None, int]]:
        """Index rows; the contents are in the store before their row is given.

        A file that is lost has no row, as with the official server: a tombstone would delete it on
        every device.
        """
        for file in files:
            if not file.size_bytes:
                yield file.usn, file.name, None, file.mtime_s
                continue
            path = official.find_media_file(folder, file.name)
            if path is None:
                missing.append(file.name)
                continue
            yield file.usn, file.name, self._put(path, copy), file.mtime_s

    def _put(self, path: Path, copy: Path) -> FileFacts:
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
        self._stores.blobs.put_new([NewBlob(facts.sha256, copy if is_large else bytes(content))])
        return facts
