"""What a client is told before it syncs."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from app.errors import UnknownMethod
from app.sync.admission import Admitted
from storage.types import EMPTY_HEAD, DatabaseId, DatabaseKind
from tests.app.sync.scripts import body_of
from tests.app.sync.workers import COLLECTION, USER

META = {"v": 11, "cv": "x"}


@pytest.mark.parametrize("version", range(6, 14))
def test_a_new_user_is_told_what_the_official_server_tells(empty_world, official, version):
    """But for the time of creation, as nothing is created yet."""
    body = body_of({"v": version, "cv": "x"})
    ours, theirs = empty_world.worker().post("meta", body), official.post("meta", body)
    assert ours[0] == theirs[0]
    if ours[0] == 200:
        of_the_time = {"ts": 0, "scm": 0}
        assert json.loads(ours[1]) | of_the_time == json.loads(theirs[1]) | of_the_time


@pytest.mark.parametrize(
    ("stamps", "version", "goes_on"),
    [
        ({"v2": True, "timezone": False}, 8, False),
        ({"v2": True, "timezone": False}, 9, True),
        ({"v2": False, "timezone": True}, 9, False),
        ({"v2": False, "timezone": True}, 10, True),
        ({"v2": False, "timezone": False}, 8, True),
    ],
)
def test_a_client_too_old_for_the_collection_is_told_so(world, stamps, version, goes_on):
    """It would misread the scheduling otherwise."""
    head = world.head()
    world.heads._change(COLLECTION, lambda _: replace(head, stamps=head.stamps | stamps))
    answer = world.worker().ask("meta", {"v": version, "cv": "x"})
    assert (answer["cont"], bool(answer["msg"])) == (goes_on, not goes_on)


def test_the_usn_of_the_media_is_told_too(world):
    """A client whose own is equal leaves its media alone."""
    head = replace(EMPTY_HEAD, stamps={"usn": 42})
    world.heads._change(DatabaseId(USER, DatabaseKind.MEDIA), lambda _: head)
    assert world.worker().ask("meta", META)["media_usn"] == 42


def test_meta_reads_two_records_and_no_object(world):
    """A device with nothing to do costs next to nothing."""
    worker = world.worker()
    worker.faults.clear()
    worker.ask("meta", META)
    assert [call.method for call in worker.faults.calls] == ["find", "find"]


def test_an_unknown_method_is_told_which_there_are(world):
    """In the text of the error."""
    with pytest.raises(UnknownMethod, match="applyChunk"):
        world.worker().service.call(Admitted(USER), "nonsense", "s", 11, b"{}")
