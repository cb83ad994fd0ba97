"""Deterministic test collections and media, generated once into a cache folder.

Note, card and revlog rows are inserted with plain SQL (seeded), then the result
is passed through Anki's own database check.  Each collection is stored next to

* ``NAME.anki2.zst``  the same bytes compressed, ready for a raw upload
* ``NAME.json``       row counts, config, a deck and card rows for the raw client
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import sqlite3
import string
from dataclasses import dataclass
from pathlib import Path

import zstandard
from anki.collection import Collection

FORMAT = 2  # bump to invalidate the cache
EPOCH = 1_704_081_600  # 2024-01-01: collection creation, and start of all reviews
DECKS = 10
ZSTD_LEVEL = 3


@dataclass(frozen=True)
class Spec:
    name: str
    notes: int
    cards: int
    revlog: int
    seed: int


SPECS = {
    s.name: s
    for s in (
        Spec("small", 1_000, 1_200, 5_000, 11),
        Spec("medium", 20_000, 25_000, 300_000, 12),
        Spec("large", 100_000, 120_000, 1_500_000, 13),
    )
}


@dataclass(frozen=True)
class Dataset:
    spec: Spec
    path: Path

    @property
    def compressed(self) -> Path:
        return self.path.with_suffix(".anki2.zst")

    @property
    def info(self) -> dict:
        return json.loads(self.path.with_suffix(".json").read_text())

    @property
    def size(self) -> int:
        return self.path.stat().st_size


def connect(path: Path | str) -> sqlite3.Connection:
    """Open a collection with the one collation Anki adds."""
    db = sqlite3.connect(path, isolation_level=None)
    db.create_collation("unicase", _fold)
    return db


def _fold(a: str, b: str) -> int:
    return (a.casefold() > b.casefold()) - (a.casefold() < b.casefold())


def _marks(count: int) -> str:
    return ",".join("?" * count)


def collection(name: str, cache: Path) -> Dataset:
    spec = SPECS[name]
    folder = cache / f"v{FORMAT}"
    data = Dataset(spec, folder / f"{name}.anki2")
    if not data.path.with_suffix(".json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"generating the {name} collection (once)", flush=True)
        tmp = folder / f"{name}.tmp"
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir()
        info = _generate(spec, tmp / "collection.anki2")
        (tmp / "collection.anki2").replace(data.path)
        raw = data.path.read_bytes()
        data.compressed.write_bytes(zstandard.compress(raw, ZSTD_LEVEL))
        data.path.with_suffix(".json").write_text(json.dumps(info))
        shutil.rmtree(tmp)
    return data


# Text
# ---------------------------------------------------------------------------


class Words:
    """Random prose with a Zipf-like vocabulary, so that it compresses like text."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        letters, weights = "etaoinshrdlucmfwypvbgk", range(44, 0, -2)
        self.vocab = [
            "".join(rng.choices(letters, weights, k=max(2, int(rng.gauss(6, 2.5))))) for _ in range(8_000)
        ]
        self.cum = list(itertools.accumulate(1 / (i + 3) for i in range(len(self.vocab))))
        self.pool: list[str] = []

    def text(self, length: int) -> str:
        need = length // 5 + 2
        if len(self.pool) < need:
            self.pool = self.rng.choices(self.vocab, cum_weights=self.cum, k=200_000)
        words, self.pool = self.pool[-need:], self.pool[:-need]
        return " ".join(words)[:length].strip()


def _field(words: Words, *, first: bool) -> str:
    rng = words.rng
    length = rng.uniform(50, 120) if first else rng.lognormvariate(5.1, 0.8)
    text = words.text(int(min(2000, max(50, length))))
    return text if first or rng.random() > 0.15 else f"<div><b>{text}</b></div>"


# Collections
# ---------------------------------------------------------------------------


def _generate(spec: Spec, path: Path) -> dict:
    col = Collection(str(path))
    kinds = [_notetype(col, *shape) for shape in ((2, 1), (4, 2), (6, 1))]
    decks = [col.decks.id(f"Bench::Deck {i}") for i in range(DECKS)]
    conf = col.decks.config_dict_for_deck_id(decks[0])
    conf["new"]["perDay"] = conf["rev"]["perDay"] = 9999
    conf["lapse"]["leechFails"] = 1000
    col.decks.update_config(conf)
    col.decks.select(col.decks.id("Bench"))
    col.close()
    _fill(spec, path, kinds, decks)

    col = Collection(str(path))
    col.fix_integrity()  # registers the tags, derives last review times
    problems, ok = col.fix_integrity()
    if not ok:
        raise RuntimeError(f"database check failed: {problems}")
    info = {
        "crt": col.crt,
        "conf": json.loads(col._backend.get_all_config()),
        "deck": col.decks.get(decks[0]),
    }
    col.close()

    db = connect(path)
    for table in ("cards", "notes", "revlog", "tags", "decks", "notetypes", "deck_config"):
        db.execute(f"update {table} set usn=0 where usn<>0")
    db.execute("update config set usn=0")
    db.execute("delete from graves")
    db.execute("update col set usn=0, ls=mod")
    db.execute("pragma wal_checkpoint(truncate)")
    db.execute("pragma journal_mode=delete")
    info["counts"] = [
        db.execute(f"select count() from {t}").fetchone()[0]
        for t in ("cards", "notes", "revlog", "graves", "notetypes", "decks", "deck_config")
    ]
    if info["counts"][:3] != [spec.cards, spec.notes, spec.revlog]:
        raise RuntimeError(f"unexpected row counts {info['counts']}")
    info["cards"] = db.execute("select * from cards order by id limit 1000").fetchall()
    db.close()
    return info


def _notetype(col, fields: int, templates: int) -> tuple[int, int, int]:
    model = col.models.new(f"Bench {fields}/{templates}")
    for i in range(fields):
        col.models.add_field(model, col.models.new_field(f"Field {i}"))
    for i in range(templates):
        card = col.models.new_template(f"Card {i}")
        card["qfmt"] = f"{{{{Field {i}}}}}"
        card["afmt"] = f"{{{{FrontSide}}}}<hr id=answer>{{{{Field {i ^ 1}}}}}"
        col.models.add_template(model, card)
    return int(col.models.add_dict(model).id), fields, templates


def _fill(spec: Spec, path: Path, kinds: list[tuple[int, int, int]], decks: list[int]) -> None:
    rng = random.Random(spec.seed)
    words = Words(rng)
    alphabet = string.ascii_letters + string.digits
    double = spec.cards - spec.notes  # notes with two cards
    layout = [kinds[1]] * double + rng.choices([kinds[0], kinds[2]], k=spec.notes - double)
    rng.shuffle(layout)
    tags = [f"bench::tag{i:02}" for i in range(60)]
    notes, cards = [], []
    base = (EPOCH - 86_400 * 200) * 1000
    for i, (mid, fields, templates) in enumerate(layout):
        nid = base + i * 60_000 + rng.randrange(60_000)
        flds = [_field(words, first=n == 0) for n in range(fields)]
        csum = int.from_bytes(hashlib.sha1(flds[0].encode()).digest()[:4], "big")
        guid = "".join(rng.choices(alphabet, k=10))
        tag = f" {' '.join(sorted(rng.sample(tags, rng.randrange(1, 4))))} "
        notes.append((nid, guid, mid, nid // 1000, 0, tag, "\x1f".join(flds), flds[0], csum, 0, ""))
        for ord_ in range(templates):
            cid, did = nid + 1 + ord_, rng.choice(decks)
            if rng.random() < 0.3:  # new
                row = (cid, nid, did, ord_, cid // 1000, 0, 0, 0, i + 1) + (0,) * 8 + ("",)
            else:  # a review card, overdue from 2026 on
                ivl = rng.randrange(1, 400)
                row = (cid, nid, did, ord_, EPOCH, 0, 2, 2, rng.randrange(700), ivl)
                row += (rng.choice((2100, 2300, 2500, 2650)), rng.randrange(1, 40))
                row += (rng.randrange(4), 0, 0, 0, 0, json.dumps({"pos": i + 1}))
            cards.append(row)
    seen = [c[0] for c in cards if c[6] == 2]

    def revlog():
        for i in range(spec.revlog):
            ivl, last = rng.randrange(1, 400), rng.randrange(1, 300)
            yield (
                EPOCH * 1000 + i * 40_000 + rng.randrange(40_000), rng.choice(seen), 0,
                rng.choices((1, 2, 3, 4), (8, 8, 75, 9))[0], ivl, last,
                rng.choice((2100, 2300, 2500)), rng.randrange(1_000, 60_000), 1,
            )  # fmt: skip

    db = connect(path)
    db.execute("pragma synchronous=off")
    db.execute("begin")
    db.executemany(f"insert into notes values ({_marks(11)})", notes)
    db.executemany(f"insert into cards values ({_marks(18)})", cards)
    db.executemany(f"insert into revlog values ({_marks(9)})", revlog())
    db.execute("update col set crt=?", [EPOCH])
    db.execute("commit")
    db.close()


# Media
# ---------------------------------------------------------------------------


def media(cache: Path, small: int, big: int) -> Path:
    """A folder of incompressible files: `small` of 20 KB on average, `big` of 2 MB."""
    folder = cache / f"v{FORMAT}" / f"media-{small}-{big}"
    if not folder.exists():
        tmp = folder.with_suffix(".tmp")
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir(parents=True)
        rng = random.Random(small * 1000 + big)
        for i in range(small):
            (tmp / f"img_{i:05}.jpg").write_bytes(rng.randbytes(rng.randrange(4_000, 36_000)))
        for i in range(big):
            (tmp / f"snd_{i:05}.mp3").write_bytes(rng.randbytes(rng.randrange(1_500_000, 2_500_000)))
        tmp.rename(folder)
    return folder


def folder_totals(folder: Path) -> tuple[int, int]:
    sizes = [entry.stat().st_size for entry in os.scandir(folder)]
    return len(sizes), sum(sizes)
