"""What failing seeds of the simulation have shown, each as a scenario of its own."""

from __future__ import annotations

from tests.app.sync.scripts import CLIENT_USN
from tests.app.sync.workers import World


def test_a_worker_that_missed_the_deletions_does_not_send_the_deleted_rows(tmp_path, codec, base):
    """It knows the head record of `start`, which is older than the journal that another worker wrote."""
    world = World(tmp_path, codec, base)
    first, second = world.worker(), world.worker()
    gone = [note[0] for note in base.notes if note[4] >= CLIENT_USN][:3]
    first.ask("start", {"minUsn": CLIENT_USN, "lnewer": True})
    second.ask("applyGraves", {"chunk": {"cards": [], "decks": [], "notes": gone}})
    second.ask("applyChanges", {"changes": {"models": [], "decks": [[], []], "tags": []}})
    sent, done = [], False
    while not done:
        chunk = first.ask("chunk", {})
        sent += [note[0] for note in chunk.get("notes", ())]
        done = chunk["done"]
    assert sent
    assert not set(sent) & set(gone)
    world.close()
