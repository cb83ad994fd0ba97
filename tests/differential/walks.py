"""Random walks through the protocol: mostly what clients do, some of what they should not.

A walk follows from its seed alone. It never depends on what happens at the two places where the
servers differ by intention in what goes on afterwards; `abort` is put in there (see `intended.py`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tests.differential.intended import FIELD_COUNT, KEY_TWICE, UNREADABLE
from tests.differential.samples import EPOCH, FIELDS, NOTETYPE, Templates
from tests.differential.steps import Known, Step
from tests.support.wire import media_zip

STAMP = 1_700_000_000
TAGS = ["eins", "Eins", "zwei", "ÄÖ", "äö", "deep::er", "Deep::er::still", "deep", "x", "STRASSE", "straße"]
WORDS = [
    "front",
    "",
    "007",
    "<b>x</b>",
    "日本",
    "<img src='a b.jpg'>",
    "&amp;&nbsp;",
    "1.5e3",
    "e\u0301",
    "x" * 400,
]
FILES = ["a.jpg", "b c.mp3", "ü.png", "日本.txt", "long" * 20, "A.jpg", "_x.css", "d.jpg", "e.jpg"]
ODD_NAMES = ["x/y", "e\u0301.jpg", "y" * 300, "ü" * 128]


class Walk:
    def __init__(self, seed: int, templates: Templates, collections: list[bytes]) -> None:
        self.rng = random.Random(seed)
        self.templates, self.collections = templates, collections
        self.session = 0
        self.files: list[str] = ["never.uploaded"]

    def steps(self) -> Iterator[Step]:
        rng = self.rng
        if rng.random() < 0.8:
            yield Step("upload", rng.choice(self.collections), form=self.form(), note="first upload")
        parts = [
            (30, self.good_sync),
            (10, self.twin_sync),
            (8, self.broken_sync),
            (8, self.crossed_sync),
            (6, self.outside_of_a_sync),
            (8, self.lone),
            (10, self.malformed),
            (16, self.media),
            (4, self.whole_file),
            (1, self.large_sync),
        ]
        weights = [weight for weight, _ in parts]
        for _ in range(rng.randrange(3, 9)):
            (_, part) = rng.choices(parts, weights)[0]
            yield from part()
        if rng.random() < 0.25:
            yield self.legacy_download()

    # small choices

    def form(self) -> str:
        return self.rng.choices(["direct", "multipart", "multipart plain"], [6, 3, 1])[0]

    def some(self, most: int) -> range:
        return range(self.rng.choice([0, 0, 1, 1, 2, most]))

    def stamp(self) -> int:
        return STAMP + self.rng.randrange(5)

    def usn(self) -> int:
        return self.rng.choice([0, 1, 2, 5, 9, 40] * 10 + [-1])

    def note_id(self) -> int:
        return EPOCH * 1000 + 1000 + self.rng.randrange(30)

    def new_skey(self) -> str:
        self.session += 1
        return f"session{self.session}"

    # objects

    def note(self, notetype: int = NOTETYPE) -> list[Any]:
        rng = self.rng
        fields = "\x1f".join(rng.choice(WORDS) for _ in range(FIELDS))
        tags = rng.choice(["", " eins ", " Eins zwei ", "no-spaces", "  a  b\u3000c "])
        guid = f"guid{rng.randrange(60)}"
        return [self.note_id(), guid, notetype, self.stamp(), self.usn(), tags, fields, "", "", 0, ""]

    def card(self) -> list[Any]:
        rng = self.rng
        due = rng.choice([0, 7, -3, 2**31 - 1, 12.0, 12.7, STAMP])
        ivl = rng.choice([0, 30, 30.0, 4.5])
        data = rng.choice(["", "{}", '{"pos":3}', '{"cd":"{}","s":1.5,"d":2.25}', '{"odd":1}', "not json"])
        queue = rng.choice([0, 1, 2, 3, 4, -1, -2, -3])
        kind = rng.choice([0, 1, 2, 3])
        row = [
            self.note_id(),
            self.note_id(),
            rng.choice([1, EPOCH * 1000 + rng.randrange(6)]),
            rng.choice([0, 0, 1]),
        ]
        row += [rng.choice([self.stamp(), float(self.stamp())]), self.usn(), kind, queue, due, ivl]
        row += [rng.choice([0, 2500, 65535]), rng.randrange(9), rng.randrange(9), rng.choice([0, 2002])]
        return [*row, rng.choice([0, 5, 5.0, -5]), rng.choice([0, 1]), rng.choice([0, 3, 255]), data]

    def review(self) -> list[Any]:
        rng = self.rng
        row = [self.note_id() + rng.choice([0, 100]), self.note_id(), self.usn(), rng.randrange(5)]
        return [*row, rng.choice([10, -600, 10.5]), rng.choice([5, 5.5]), 2500, rng.choice([4000, 4000.5]), 1]

    def chunk(self, size: int = 4) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, make in (("revlog", self.review), ("cards", self.card), ("notes", self.note)):
            found = [make() for _ in self.some(size)]
            if found or self.rng.random() < 0.3:
                out[name] = found
        if self.rng.random() < 0.8:
            out["done"] = True
        return out

    def deck(self) -> dict[str, Any]:
        rng = self.rng
        source = rng.choice([self.templates.deck, self.templates.deck, self.templates.filtered])
        name = rng.choice(["A", "a", "B::C", "b", "Ä", "Default", "B"])
        deck = dict(source) | {"id": rng.choice([1, *(EPOCH * 1000 + i for i in range(6))]), "name": name}
        deck |= {"mod": self.stamp(), "usn": self.usn(), "desc": rng.choice(["", "words\n*md*", "ü"])}
        if rng.random() < 0.3:
            deck["x-unknown"] = rng.choice([1, None, {"a": [1, "b"]}, "text"])
        if rng.random() < 0.2:
            deck["id"] = str(deck["id"])
        return deck

    def options(self) -> dict[str, Any]:
        rng = self.rng
        conf = dict(self.templates.options) | {"id": rng.choice([1, *(EPOCH * 1000 + i for i in range(4))])}
        conf |= {"name": rng.choice(["Default", "Opt", "opt"]), "mod": self.stamp(), "usn": self.usn()}
        conf["new"] = dict(conf["new"]) | {"perDay": rng.randrange(50)}
        if rng.random() < 0.3:
            conf["x-unknown"] = {"nested": [rng.randrange(3)]}
        return conf

    def notetype(self) -> dict[str, Any]:
        rng = self.rng
        kind = dict(self.templates.notetype)
        kind |= {"id": NOTETYPE + rng.randrange(4), "name": rng.choice(["Basic", "basic", "Other", "Ö"])}
        kind |= {"mod": self.stamp(), "usn": self.usn(), "css": rng.choice(["", ".card{color:red}"])}
        if rng.random() < 0.3:
            kind["x-unknown"] = rng.choice(["y", [1], {"z": 2}])
            kind["flds"] = [dict(field) | {"x-field": 1} for field in kind["flds"]]
        if rng.random() < 0.2:
            kind["id"] = str(kind["id"])
        return kind

    def changes(self) -> dict[str, Any]:
        rng = self.rng
        out: dict[str, Any] = {
            "models": [self.notetype() for _ in self.some(2)],
            "decks": [[self.deck() for _ in self.some(3)], [self.options() for _ in self.some(2)]],
            "tags": [rng.choice(TAGS) for _ in self.some(5)],
        }
        if rng.random() < 0.5:
            out["conf"] = dict(self.templates.config) | {
                "x-key": rng.choice([1, 2.5, "ü", None, [1], {"a": {}}])
            }
            out["crt"] = EPOCH + rng.randrange(3) * 86_400
        return out

    def graves(self) -> dict[str, Any]:
        return {
            "cards": [self.note_id() for _ in self.some(4)],
            "notes": [self.note_id() for _ in self.some(4)],
            "decks": [EPOCH * 1000 + self.rng.randrange(6) for _ in self.some(2)],
        }

    # syncs

    def start(self, skey: str, form: str) -> Step:
        rng = self.rng
        payload: dict[str, Any] = {
            "minUsn": rng.choice([Known("usn"), Known("usn"), 0, 1, 3]),
            "lnewer": rng.random() < 0.5,
        }
        if rng.random() < 0.4:
            graves = self.graves()
            texts = {kind: [str(i) for i in ids] for kind, ids in graves.items()}
            payload["graves"] = rng.choice([None, graves, texts])
        return Step("start", payload, skey, form)

    def body(self, skey: str, form: str) -> Iterator[Step]:
        """What a client sends between start and sanity check."""
        for _ in self.some(2):
            yield Step("applyGraves", {"chunk": self.graves()}, skey, form)
        yield Step("applyChanges", {"changes": self.changes()}, skey, form)
        for _ in range(self.rng.choice([1, 1, 2])):
            yield Step("chunk", {}, skey, form)
        for _ in self.some(3):
            yield Step("applyChunk", {"chunk": self.chunk()}, skey, form)

    def good_sync(self) -> Iterator[Step]:
        skey, form = self.new_skey(), self.form()
        yield Step("meta", {"v": 11, "cv": "walk"}, skey, form)
        yield self.start(skey, form)
        yield from self.body(skey, form)
        yield Step("finish", {}, skey, form)

    def twin_sync(self) -> Iterator[Step]:
        """Once with wrong counts, which is undone and tells the right ones; then again with those."""
        form = self.form()
        yield Step("meta", {"v": 11, "cv": "walk"}, "", form)
        start = self.start("", form)
        body = list(self.body("", form))
        wrong = {"client": [[0, 0, 0], 9, 9, 9, 9, 9, 9, 9]}
        right = {"client": Known("counts")}
        for counts in (wrong, right):
            skey = self.new_skey()
            for step in [start, *body, Step("sanityCheck2", counts, "", form)]:
                yield Step(step.method, step.payload, skey, form)
            if counts is wrong:
                yield Step("abort", {}, skey, form)
            else:
                yield Step("finish", {}, skey, form, note="after the right counts, unless usn -1 is about")

    def large_sync(self) -> Iterator[Step]:
        """More than fits into one chunk goes in, and comes out again."""
        skey, form = self.new_skey(), self.form()
        many = range(self.rng.choice([249, 250, 251, 600]))
        cards = [[EPOCH * 1000 + 5000 + i, *self.card()[1:]] for i in many]
        yield self.start(skey, form)
        yield Step("applyChunk", {"chunk": {"cards": cards, "done": True}}, skey, form, note="many")
        yield Step("finish", {}, skey, form)
        yield Step("start", {"minUsn": 0, "lnewer": False}, skey, form)
        for _ in range(len(many) // 250 + 3):
            yield Step("chunk", {}, skey, form, note="to the end and beyond")
        yield Step("abort", {}, skey, form)

    def broken_sync(self) -> Iterator[Step]:
        """A sync in which a step cannot be carried out; all later ones then find no sync."""
        skey, form = self.new_skey(), self.form()
        rng = self.rng
        more_fields = self.notetype() | {"id": NOTETYPE, "mod": STAMP + 99, "x": 1}
        more_fields["flds"] = [
            *more_fields["flds"],
            dict(more_fields["flds"][0]) | {"name": "third", "ord": 2},
        ]
        failing = rng.choice(
            [
                Step(
                    "applyChunk",
                    {"chunk": {"notes": [self.note(notetype=4711)]}},
                    skey,
                    form,
                    note="no notetype",
                ),
                Step(
                    "applyChanges",
                    {"changes": {"models": [more_fields], "decks": [[], []], "tags": []}},
                    skey,
                    form,
                    note=FIELD_COUNT,
                ),
            ]
        )
        yield self.start(skey, form)
        yield from self.body(skey, form)
        yield failing
        if failing.method == "applyChunk":
            yield Step("chunk", {}, skey, form, note="after a failed step")
            yield Step("finish", {}, skey, form, note="after a failed step")
        else:
            yield Step("abort", {}, skey, form)

    def crossed_sync(self) -> Iterator[Step]:
        """Another device, or the same one again, comes in between."""
        first, second, form = self.new_skey(), self.new_skey(), self.form()
        rng = self.rng
        yield self.start(first, form)
        yield from self.body(first, form)
        match rng.randrange(4):
            case 0:
                yield self.start(second, self.form())
                yield Step("chunk", {}, first, form, note="replaced by another start")
                yield Step("finish", {}, first, form, note="replaced by another start")
                yield from self.body(second, form)
                yield Step("finish", {}, second, form)
            case 1:
                yield Step("applyChunk", {"chunk": self.chunk()}, second, form, note="another key")
                yield Step("applyChunk", {"chunk": self.chunk()}, "", form, note="no key")
                yield Step("finish", {}, first, form)
            case 2:
                yield Step("abort", {}, first, form)
                yield Step("finish", {}, first, form, note="after abort")
            case 3:
                yield from rng.choice([self.whole_file, self.lone])()
                yield Step("abort", {}, first, form, note="the official server has ended it already")

    def outside_of_a_sync(self) -> Iterator[Step]:
        skey = self.new_skey()
        payloads: dict[str, Any] = {
            "applyGraves": {"chunk": self.graves()},
            "applyChanges": {"changes": self.changes()},
            "chunk": {},
            "applyChunk": {"chunk": self.chunk()},
            "sanityCheck2": {"client": [[0, 0, 0], 0, 0, 0, 0, 0, 0, 0]},
            "finish": {},
            "abort": {},
        }
        method = self.rng.choice(list(payloads))
        yield Step(method, payloads[method], self.rng.choice([skey, ""]), self.form(), note="no sync")

    def lone(self) -> Iterator[Step]:
        """Requests that need no sync."""
        rng = self.rng
        version = rng.choice([0, 7, 8, 9, 10, 11, 12, 255])
        yield rng.choice(
            [
                Step("meta", {"v": version, "cv": "walk", "more": 1}, "", self.form()),
                Step("meta", {"version": version, "body": {"v": 11, "cv": "x"}}, "", "version"),
                Step("hostKey", {"u": "user1", "p": "wrong"}, "", self.form()),
                Step("hostKey", {"u": "nobody", "p": ""}, "", self.form()),
                Step("meta", {"v": 11, "cv": "x"}, hkey="0" * 40),
                Step("meta", b"{bad", hkey="0" * 40),
                Step("start", {"minUsn": 0, "lnewer": True}, "s", hkey=""),
                Step("health", {"path": "health"}, form="get"),
            ]
        )

    def malformed(self) -> Iterator[Step]:
        """Well wrapped nonsense inside a sync: it is refused, and the sync goes on."""
        skey, form = self.new_skey(), self.form()
        yield self.start(skey, form)
        for _ in range(self.rng.choice([1, 2, 4])):
            yield self.nonsense(skey, form)
        yield Step("applyChunk", {"chunk": self.chunk()}, skey, form)
        yield Step("finish", {}, skey, form)

    def nonsense(self, skey: str, form: str) -> Step:
        rng = self.rng
        whole = '{"v":11,"k":"HKEY","c":"x","s":"SKEY"}'
        note, card, review = self.note(), self.card(), self.review()
        chunks: list[Any] = [
            {"notes": [note[:-1]]},
            {"notes": [[*note, 1]]},
            {"notes": [[str(note[0]), *note[1:]]]},
            {"cards": [[*card[:3], -1, *card[4:]]]},
            {"cards": [[*card[:8], 2**31, *card[9:]]]},
            {"cards": [[*card[:6], 9, *card[7:]]]},
            {"cards": [[*card[:7], -9, *card[8:]]]},
            {"cards": [[*card[:10], 70_000, *card[11:]]]},
            {"cards": [[*card[:10], 1.5, *card[11:]]]},
            {"cards": [[*card[:9], -1, *card[10:]]]},
            {"cards": [None]},
            {"revlog": [[*review[:3], 300, *review[4:]]]},
            {"revlog": [[*review[:7], -1, *review[8:]]]},
            {"revlog": {}},
            {"done": 1},
            {"done": None},
            {"notes": None},
            None,
            [],
            {"unknown": 1},
        ]
        unreadable: list[Any] = [
            {"models": [{}], "decks": [[], []], "tags": []},
            {"models": [], "decks": [[{"id": 5}], []], "tags": []},
            {"models": [], "decks": [[], [{"id": 5, "name": 1}]], "tags": []},
        ]
        bodies: list[tuple[str, Any]] = [("applyChunk", {"chunk": chunk}) for chunk in chunks]
        bodies += [
            ("applyChunk", {}),
            ("applyChunk", {"chunk": {}, "more": 1}),
            ("applyChunk", b""),
            ("applyChunk", b'{"chunk":{}} trailing'),
            ("applyChunk", KEY_TWICE),
            ("applyChunk", b"\xff\xfe{}"),
            ("chunk", {"more": 1}),
            ("chunk", None),
            ("chunk", []),
            ("chunk", [1]),
            ("chunk", "x"),
            ("finish", {"more": 1}),
            ("applyGraves", {"chunk": {"cards": []}}),
            ("applyGraves", {"chunk": {"cards": ["1"], "notes": [], "decks": []}}),
            ("applyGraves", {"chunk": {"cards": [1.0], "notes": [], "decks": []}}),
            ("applyGraves", {"chunk": {"cards": [2**63], "notes": [], "decks": []}}),
            ("applyGraves", {"chunk": {"cards": [], "notes": [], "decks": [], "x": 1}}),
            ("applyChanges", {"changes": {"models": [], "decks": [[]], "tags": []}}),
            ("applyChanges", {"changes": {"models": [], "decks": [[], []]}}),
            *(("applyChanges", {"changes": changes}) for changes in unreadable),
            ("applyChanges", {"changes": {"models": [], "decks": [[], []], "tags": [1]}}),
            ("applyChanges", {"changes": {"models": [], "decks": [[], []], "tags": [], "conf": []}}),
            ("applyChanges", {"changes": {"models": [], "decks": [[], []], "tags": [], "crt": "1"}}),
            ("sanityCheck2", {"client": [[0, 0, 0], 1, 1]}),
            ("sanityCheck2", {"client": [[0, 0, 0], -1, 1, 1, 1, 1, 1, 1]}),
            ("sanityCheck2", {"client": {}}),
            ("nonsense", {}),
        ]
        method, payload = rng.choice(bodies)
        odd = method == "applyChanges" and payload["changes"] in unreadable
        step = Step(method, payload, skey, form, note=UNREADABLE if odd else "nonsense")
        raw: list[Any] = [
            {"header": "", "body": {}},
            {"header": "{}", "body": {}},
            {"header": "nonsense", "body": {}},
            {"header": whole.replace("11", '"11"'), "body": {}},
            {"header": whole.replace("11", "11.0"), "body": {}},
            {"header": whole.replace("11", "300"), "body": {}},
            {"header": whole.replace('"c":"x",', ""), "body": {}},
            {"header": whole.replace('"c":"x"', '"c":1'), "body": {}},
            {"header": whole.replace('"c":"x"', '"c":"x","d":[1]'), "body": {}},
            {"header": whole, "body": b"{}", "pack": False},
            {"header": whole, "body": b"", "pack": False},
            {"header": whole, "body": b"\x28\xb5\x2f\xfd", "pack": False},
            {"header": whole, "body": {}, "path": "sync/unknown"},
            {"header": whole, "body": {}, "path": "msync/unknown"},
            {"header": whole, "body": {}, "path": "other/path"},
            {"header": whole, "body": {}, "path": "sync/"},
        ]
        if rng.random() < 0.3:
            return Step("chunk", rng.choice(raw), skey, "raw", note="not well formed")
        return step

    def legacy_download(self) -> Step:
        """Comes last, since the official server hands out, and keeps, the collection of an old schema.

        Stamps and USNs that the old schema has no room for are lost to it; ours downgrades a copy.
        """
        payload = {"version": self.rng.choice([8, 9, 10]), "body": {}}
        return self.rng.choice(
            [
                Step("download", {}, "", "multipart", note="the last"),
                Step("download", {}, "", "multipart plain", note="the last"),
                Step("download", payload, "", "version", note="the last"),
            ]
        )

    # media, and files as a whole

    def media(self) -> Iterator[Step]:
        rng = self.rng
        for _ in range(rng.randrange(1, 5)):
            form = self.form()
            match rng.randrange(8):
                case 0:
                    yield Step("begin", {"v": rng.choice(["x", "", "anki,walk"])}, "", "direct")
                case 1:
                    yield Step("begin", {"path": rng.choice(BEGINS)}, "", "get")
                case 2:
                    yield Step("begin", rng.choice(BEGIN_FORMS), "", "form")
                case 3:
                    usn = rng.choice([0, 1, 2, 5, Known("media usn"), -1, 99])
                    yield Step("mediaChanges", {"lastUsn": usn}, "", form)
                case 4:
                    wanted = [rng.choice(FILES) for _ in range(rng.choice([0, 1, 2, 5, 26]))]
                    yield Step(
                        "downloadFiles", {"files": sorted(set(wanted)) if len(wanted) < 26 else wanted}
                    )
                case 5:
                    yield Step("mediaSanity", {"local": rng.choice([0, 1, 2, 3, 4, -1, 2**32])}, "", form)
                case _:
                    yield self.upload_media(form)

    def upload_media(self, form: str) -> Step:
        rng = self.rng
        entries: list[tuple[str, bytes | None]] = []
        for _ in range(rng.choice([0, 1, 3, 3, 25, 26])):
            name = f"many{rng.randrange(40)}.bin" if rng.random() < 0.3 else rng.choice(FILES)
            content = rng.choice([b"one", b"two", b"three" * 1000, None, name.encode(), name.encode()])
            if rng.random() < 0.05:
                content = rng.choice([b"large", b"larger"]) * 300_000
            entries.append((name, content))
            self.files.append(name)
        match rng.randrange(12):
            case 0:
                entries.append((rng.choice(ODD_NAMES), b"odd"))
            case 1:
                entries.append(("empty.txt", b""))
            case 2:
                meta = rng.choice(
                    [[["a.jpg", ""]], [["a.jpg", "9"]], [["a.jpg"]], {}, [["a.jpg", "0", 1]], [[1, "0"]]]
                )
                return Step("uploadChanges", media_zip(entries, meta), "", form, note="odd list of names")
            case 3:
                junk = rng.choice([b"", b"PK", media_zip(entries)[:-30]])
                return Step("uploadChanges", junk, "", "direct", note="no zip")
        return Step("uploadChanges", media_zip(entries), "", form)

    def whole_file(self) -> Iterator[Step]:
        rng = self.rng
        form = self.form()
        junk = [b"not a database", b"SQLite format 3\x00" + b"x" * 600, rng.choice(self.collections)[:5000]]
        yield rng.choice(
            [
                Step("upload", rng.choice(self.collections), "", form),
                Step("download", {}, "", "direct"),
                Step("download", {"x": 1}, "", form),
                Step("upload", rng.choice(junk), "", "direct", note="no collection"),
            ]
        )


BEGINS = [
    "msync/begin?k=HKEY&v=anki",
    "msync/begin?v=anki&k=HKEY&other=1",
    "msync/begin?k=HKEY",
    "msync/begin?v=anki",
    "msync/begin?k=wrong&v=anki",
    "msync/begin?k=HKEY&v=",
]
BEGIN_FORMS = [
    {"k": b"HKEY", "v": b"anki"},
    {"sk": b"HKEY", "v": b"anki"},
    {"v": b"anki"},
    {"k": b"HKEY"},
    {"k": b"HKEY", "c": b"0", "data": b'{"v":"anki"}'},
    {"k": b"HKEY", "data": b'{"v":"anki"}'},
    {"k": b"HKEY", "c": b"0", "data": b'{"v":"anki"}', "v": b"other"},
]
