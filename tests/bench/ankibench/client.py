"""A real Anki client (the `anki` package), one folder per simulated device."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from anki.collection import Collection
from anki.scheduler.v3 import CardAnswer
from anki.sync import SyncAuth

from .datasets import connect

NO_CHANGES = 0


class Client:
    def __init__(self, folder: Path, url: str, user: tuple[str, str]) -> None:
        self.folder, self.url, self.user = folder, url, user
        self.path = folder / "collection.anki2"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.col: Collection | None = None
        self.auth: SyncAuth | None = None

    def open(self, source: Path | None = None) -> Client:
        """Open an empty collection, or a copy of one, and log in."""
        if source:
            shutil.copyfile(source, self.path)
        self.col = Collection(str(self.path))
        self.auth = self.col.sync_login(*self.user, self.url)
        return self

    def close(self) -> None:
        if self.col and self.col.db:
            self.col.close()
        self.col = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def full(self, *, upload: bool) -> None:
        self.col.close_for_full_sync()
        self.col.full_upload_or_download(auth=self.auth, server_usn=None, upload=upload)

    def reopen(self) -> None:
        self.col.reopen(after_full_sync=True)

    def sync(self, url: str | None = None) -> None:
        auth = SyncAuth(hkey=self.auth.hkey, endpoint=url) if url else self.auth
        required = self.col.sync_collection(auth, sync_media=False).required
        if required != NO_CHANGES:
            raise RuntimeError(f"unexpected full sync required ({required})")

    def review(self, count: int) -> int:
        """Answer cards with the scheduler; returns the rows that now wait to be synced."""
        sched = self.col.sched
        for i in range(count):
            queued = sched.get_queued_cards(fetch_limit=1)
            card = self.col.get_card(queued.cards[0].card.id)
            card.start_timer()
            rating = CardAnswer.AGAIN if i % 20 == 19 else CardAnswer.GOOD
            answer = sched.build_answer(card=card, states=queued.cards[0].states, rating=rating)
            sched.answer_card(answer)
        tables = ("cards", "revlog", "notes", "decks", "tags")
        return sum(self.col.db.scalar(f"select count() from {t} where usn=-1") for t in tables)

    def fingerprint(self) -> list:
        """Figures that agree on two devices when they hold the same data."""
        queries = (
            "select count(), sum(id), sum(mod), sum(due), sum(reps) from cards",
            "select count(), sum(id), sum(mod), sum(length(flds)) from notes",
            "select count(), sum(id), sum(cid), sum(ivl) from revlog",
        )
        return [self.col.db.first(q) for q in queries]

    def link_media(self, source: Path) -> None:
        for entry in os.scandir(source):
            os.link(entry.path, Path(self.col.media.dir()) / entry.name)

    def sync_media(self) -> None:
        self.col.sync_media(self.auth)
        while self.col.media_sync_status().active:  # raises on errors
            time.sleep(0.005)


def file_fingerprint(path: Path) -> list:
    db = connect(path)
    counts = [db.execute(f"select count() from {t}").fetchone() for t in ("cards", "notes", "revlog")]
    db.close()
    return counts
