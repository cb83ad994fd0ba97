"""`user purge` and `user export` on AWS: the bucket is listed with all its versions."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from anki.collection import Collection

from app.cli.context import Admin as Context
from app.config import Settings
from tests.support import aws, servers
from tests.support.cluster import Place, cloud, control
from tests.support.proxy import Fault

SHARED, ALONE = b"everybody has this", b"only alice has this"


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with aws.moto() as endpoint:
        yield endpoint


@pytest.fixture(params=["dynamodb", "s3"])
def place(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A versioned bucket, as Terraform makes it, with the data of alice and bob."""
    with cloud(tmp_path / "made", engine, request.param) as found:
        aws.client("s3", engine).put_bucket_versioning(
            Bucket=f"bucket-{found.name}", VersioningConfiguration={"Status": "Enabled"}
        )
        found.extra = {"SYNC_USER1": "alice:a", "SYNC_USER2": "bob:b"}
        base = tmp_path / "base"
        make_user(base / "alice", {"shared.txt": SHARED, "own.txt": ALONE})
        make_user(base / "bob", {"theirs.txt": SHARED})
        for words in (["import", str(base)], ["import", str(base), "--user", "alice", "--replace"]):
            done = control(found, tmp_path / "here", *words)
            assert done.returncode == 0, done.stderr
        yield found


def make_user(folder: Path, media: dict[str, bytes]) -> None:
    """What the official server keeps of a user."""
    (folder / "media").mkdir(parents=True)
    col = Collection(str(folder / "collection.anki2"))
    note = col.new_note(col.models.by_name("Basic"))
    note.fields = ["one", "1"]
    col.add_note(note, 1)
    col.db.execute("update notes set usn = 0")
    col.db.execute("update cards set usn = 0")
    col.close()
    database = sqlite3.connect(folder / "media.db")
    database.executescript(
        "CREATE TABLE media (fname text NOT NULL PRIMARY KEY, csum blob NOT NULL, size int NOT NULL,"
        " usn int NOT NULL, mtime int NOT NULL);"
        "CREATE TABLE meta (last_usn int NOT NULL, total_bytes int NOT NULL,"
        " total_nonempty_files int NOT NULL);"
        "INSERT INTO meta VALUES (9, 0, 0); PRAGMA user_version = 4;"
    )
    for usn, (name, content) in enumerate(media.items(), 1):
        (folder / "media" / name).write_bytes(content)
        database.execute("INSERT INTO media VALUES (?, x'00', ?, ?, 1700000000)", (name, len(content), usn))
    database.commit()
    database.close()


def log_in(place: Place, folder: Path, name: str, password: str) -> None:
    env = servers.environment([], folder, 1, place.settings)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in env.items():
            patch.setenv(key, value)
        Context(Settings.from_env(env)).accounts.authenticator.login(name, password, "192.0.2.1", "desktop")


def versions(place: Place) -> list[str]:
    """Keys of all versions and delete markers."""
    client = aws.client("s3", place.engine)
    pages = client.get_paginator("list_object_versions").paginate(Bucket=f"bucket-{place.name}")
    return [
        found["Key"]
        for page in pages
        for found in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
    ]


def items(place: Place) -> list[str]:
    if place.heads == "s3":
        return []
    client = aws.client("dynamodb", place.engine)
    pages = client.get_paginator("scan").paginate(TableName=f"table-{place.name}")
    return [item["pk"]["S"] for page in pages for item in page["Items"]]


def key_of(content: bytes) -> str:
    return f"some/prefix/blobs/{hashlib.sha256(content).hexdigest()}"


def test_a_purge_leaves_nothing_in_bucket_and_table_with_all_versions(place: Place, tmp_path: Path) -> None:
    log_in(place, tmp_path / "login", "alice", "a")
    rows = {row["name"]: row for row in json.loads(control(place, tmp_path, "user", "list", "--json").stdout)}
    alice, bob = rows["alice"]["id"], rows["bob"]["id"]
    assert rows["alice"]["keys"] == 1
    assert any(alice in key for key in versions(place))
    planned = json.loads(control(place, tmp_path, "user", "purge", "alice", "--dry-run", "--json").stdout)
    assert planned["old_versions"] >= planned["objects"] > 0
    done = control(place, tmp_path, "user", "purge", "alice", "--yes", "--at-once", "--json")
    assert done.returncode == 0, done.stderr
    kept = versions(place)
    assert [key for key in kept if alice in key or "hostkeys/" in key or key == key_of(ALONE)] == []
    assert [item for item in items(place) if alice in item or item.startswith("hostkey#")] == []
    assert key_of(SHARED) in kept
    assert any(bob in key for key in kept)
    row = json.loads(done.stdout)
    assert row["old_versions"] > row["objects"]
    whats = " ".join(left["what"] for left in row["remaining"])
    assert "the SYNC_USERn of that name" in whats
    assert "old versions in the bucket" not in whats
    assert control(place, tmp_path, "doctor", "--read-media").returncode == 0


def test_versions_that_may_not_be_deleted_are_listed_with_their_end(place: Place, tmp_path: Path) -> None:
    aws.client("s3", place.engine).put_bucket_lifecycle_configuration(
        Bucket=f"bucket-{place.name}",
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "deleted",
                    "Status": "Enabled",
                    "Filter": {},
                    "NoncurrentVersionExpiration": {"NoncurrentDays": 14},
                }
            ]
        },
    )
    place.wire.on_call = lambda call: Fault.LOSE_REQUEST if "?versions" in call.path else Fault.NONE
    done = control(place, tmp_path, "user", "purge", "alice", "--yes", "--at-once", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    (left,) = [left for left in row["remaining"] if left["what"] == "old versions in the bucket"]
    assert left["until_ms"] is not None
    assert "could not be deleted" in left["note"]
    place.wire.on_call = lambda _call: Fault.NONE
    again = control(place, tmp_path, "user", "purge", row["id"], "--yes", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["old_versions"] > 0
    assert not any(f"v1/{row['id']}/" in key for key in versions(place))


def test_an_export_comes_from_the_bucket(place: Place, tmp_path: Path) -> None:
    done = control(place, tmp_path / "here", "user", "export", "alice", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["media_files"] == 2
    assert (tmp_path / "out" / "collection.colpkg").stat().st_size
