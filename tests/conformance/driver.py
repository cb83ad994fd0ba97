"""One simulated device: a real Anki client of any version, told what to do by JSON lines.

Runs as a script in the environment of the version under test, so it uses nothing but that version's
`anki` package and speaks each version's dialect. A line in is `[operation, arguments]`, a line out
`{"result": ...}` or `{"error": [type, message]}`.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import sqlite3
import sys
import time
import traceback

import anki.buildinfo
from anki.collection import Collection
from anki.notes import Note

REQUIRED = ["no changes", "normal", "full", "download", "upload"]
NOTE_COLUMNS = "id, guid, mid, mod, tags, flds, sfld, csum"
CARD_COLUMNS = "id, nid, did, ord, mod, type, queue, due, ivl, factor, reps, lapses, left, odue, odid, flags"


def call(thing, names, *args, **kwargs):
    """Call whichever of several names this version has."""
    for name in names.split():
        if hasattr(type(thing), name):
            return getattr(thing, name)(*args, **kwargs)
    raise AttributeError(names)


class Device:
    def __init__(self):
        self.col = None
        self.auth = None
        self.url = None
        self.media_stamp = int(time.time()) + 10

    # the collection

    def open(self, path):
        self.close()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.col = Collection(path)

    def close(self):
        if self.col is not None and self.col.db:
            self.col.close()
        self.col = self.auth = None

    def modern_scheduler(self):
        """The newest clients can review nothing with the schedulers that old ones start with."""
        if hasattr(self.col, "set_v3_scheduler") and not self.col.v3_scheduler():
            self.col.set_v3_scheduler(True)
            self.save()

    @property
    def backend(self):
        return getattr(self.col, "_backend", None) or self.col.backend

    def save(self):
        """Note the time of a change: no version does it for rows changed by SQL."""
        self.col.db.execute("update col set mod=?", int(time.time() * 1000))
        with self.no_transaction():
            pass

    @contextlib.contextmanager
    def no_transaction(self):
        """Versions up to 2.1.66 keep one open, which the backend does not want while it syncs."""
        keeps = anki.buildinfo.version.startswith("2.1.")
        if keeps:
            self.col.db.commit()
        try:
            yield
        finally:
            if keeps and self.col.db:
                self.col.db.begin()

    # syncing

    def login(self, url, user, password):
        self.endpoint(url)
        login = getattr(self.col, "sync_login", None) or self.backend.sync_login
        takes_endpoint = "endpoint" in inspect.signature(login).parameters
        extra = {"endpoint": url} if takes_endpoint else {}
        self.auth = login(username=user, password=password, **extra)
        self.endpoint(url)
        return self.auth.hkey

    def endpoint(self, url):
        """Later requests go to this address."""
        self.url = url
        os.environ["SYNC_ENDPOINT"] = url + "sync/"
        os.environ["SYNC_ENDPOINT_MEDIA"] = url + "msync/"
        if self.auth is not None and hasattr(self.auth, "endpoint"):
            self.auth.endpoint = url

    def import_package(self, path):
        """Replace the collection by a package, as File, Import does; newest clients only."""
        where, media, backend = self.col.path, self.media_folder(), self.backend
        media_db = where.replace(".anki2", ".media.db2")
        self.col.close()
        backend.import_collection_package(
            col_path=where, backup_path=path, media_folder=media, media_db=media_db
        )
        self.col = Collection(where)

    def export_package(self, path):
        """As File, Export of a collection package with media; newest clients only."""
        self.col.export_collection_package(path, include_media=True, legacy=False)

    def set_key(self, key):
        self.auth.hkey = key

    def sync(self):
        """One sync of the collection; returns what the client then finds necessary."""
        with self.no_transaction():
            if not hasattr(self.col, "sync_collection"):
                out = self.backend.sync_collection(self.auth)
            elif "sync_media" in inspect.signature(self.col.sync_collection).parameters:
                out = self.col.sync_collection(self.auth, sync_media=False)
            else:
                out = self.col.sync_collection(self.auth)
        self.col.models._clear_cache()
        return REQUIRED[out.required]

    def upload(self):
        self.full(upload=True)

    def download(self):
        self.full(upload=False)

    def full(self, upload):
        self.col.close_for_full_sync()
        try:
            if hasattr(self.col, "full_upload_or_download"):
                self.col.full_upload_or_download(auth=self.auth, server_usn=None, upload=upload)
            elif upload:
                self.backend.full_upload(self.auth)
            else:
                self.backend.full_download(self.auth)
        finally:
            # the backend has opened the new file itself
            self.col.reopen(after_full_sync=True)

    def sync_media(self):
        with self.no_transaction():
            self.backend.sync_media(self.auth)
        if hasattr(self.backend, "media_sync_status"):
            while self.backend.media_sync_status().active:  # raises what the sync met
                time.sleep(0.005)

    # notes and cards

    def add_notes(self, fields, deck="Default", notetype="Basic", tags=()):
        """Add notes with these lists of fields; returns their ids."""
        deck_id = self.col.decks.id(deck)
        model = self.notetype_dict(notetype)
        ids = []
        for values in fields:
            note = Note(self.col, model)
            for index, value in enumerate(values):
                note.fields[index] = value
            note.tags = list(tags)
            self.col.add_note(note, deck_id)
            ids.append(note.id)
        # ids are times, and run ahead of the clock here: another device must not draw the same ones
        while ids and time.time() * 1000 <= self.col.db.scalar("select max(id) from cards") + 1:
            time.sleep(0.001)
        self.save()
        return ids

    def bulk_notes(self, count, start_id, word):
        """Many notes with a card each, straight into the tables, as an import leaves them."""
        model = self.notetype_dict("Basic")
        now = int(time.time())
        notes, cards = [], []
        for i in range(count):
            nid = start_id + i
            text = f"{word} {i}"
            csum = int(hashlib.sha1(text.encode()).hexdigest()[:8], 16)
            flds = text + "\x1fback"
            notes.append([nid, f"{word}{i}", model["id"], now, -1, "", flds, text, csum, 0, ""])
            cards.append([nid, nid, 1, 0, now, -1, 0, 0, i, 0, 0, 0, 0, 0, 0, 0, 0, ""])
        self.col.db.executemany(f"insert into notes values ({','.join('?' * 11)})", notes)
        self.col.db.executemany(f"insert into cards values ({','.join('?' * 18)})", cards)
        self.save()

    def bulk_revlog(self, count, start_id, card_id):
        rows = [[start_id + i, card_id, -1, 3, 10, 5, 2500, 4000, 1] for i in range(count)]
        self.col.db.executemany(f"insert into revlog values ({','.join('?' * 9)})", rows)
        self.save()

    def note(self, note_id):
        get = getattr(self.col, "get_note", None) or self.col.getNote
        return get(note_id)

    def set_fields(self, note_id, values, mod=None):
        """Edit a note, as of the given second."""
        note = self.note(note_id)
        for index, value in enumerate(values):
            note.fields[index] = value
        note.flush()
        if mod is not None:
            self.col.db.execute("update notes set mod=? where id=?", mod, note_id)
        self.save()

    def add_tags(self, note_ids, tags):
        call(self.col.tags, "bulk_add bulkAdd", note_ids, tags)
        self.save()

    def remove_notes(self, note_ids):
        self.col.remove_notes(note_ids)
        self.save()

    def remove_cards(self, card_ids):
        call(self.col, "remove_cards_and_orphaned_notes", card_ids)
        self.save()

    def set_card(self, card_id, mod=None, **columns):
        """Change columns of a card, as of the given second."""
        columns |= {"mod": mod if mod is not None else int(time.time()), "usn": -1}
        assignments = ", ".join(f"{name}=?" for name in columns)
        self.col.db.execute(f"update cards set {assignments} where id=?", *columns.values(), card_id)
        self.save()

    def review(self, count, ease=3, later=0):
        """Answer cards with the scheduler, dated some seconds later; returns the ids of the cards."""
        sched = self.col.sched
        if hasattr(sched, "reset"):
            sched.reset()
        answered = []
        for _ in range(count):
            card = sched.getCard()
            if card is None:
                break
            (getattr(card, "start_timer", None) or card.startTimer)()
            sched.answerCard(card, ease)
            answered.append(card.id)
            self.col.db.execute("update cards set mod=mod+? where id=?", later, card.id)
        self.save()
        return answered

    # decks, their options, notetypes

    def add_deck(self, name):
        deck_id = self.col.decks.id(name)
        self.save()
        return deck_id

    def rename_deck(self, deck_id, name, mod=None):
        self.col.decks.rename(self.col.decks.get(deck_id), name)
        self.date("decks", deck_id, mod)

    def describe_deck(self, deck_id, text, mod=None, **extra):
        """Change a deck's description and any other keys."""
        deck = self.col.decks.get(deck_id)
        deck["desc"] = text
        deck.update(extra)
        self.col.decks.save(deck)
        self.date("decks", deck_id, mod)

    def remove_deck(self, deck_id):
        if hasattr(self.col.decks, "remove"):
            self.col.decks.remove([deck_id])
        else:
            self.col.decks.rem(deck_id, cardsToo=True)
        self.save()

    def add_filtered_deck(self, name, search):
        """A filtered deck that has gathered its cards; returns its id."""
        deck_id = self.col.decks.new_filtered(name)
        deck = self.col.decks.get(deck_id)
        deck["terms"] = [[search, 100, 0]]
        self.col.decks.save(deck)
        call(self.col.sched, "rebuild_filtered_deck rebuildDyn", deck_id)
        self.save()
        return deck_id

    def empty_filtered_deck(self, deck_id):
        call(self.col.sched, "empty_filtered_deck emptyDyn", deck_id)
        self.save()

    def add_options(self, name, new_per_day):
        conf_id = self.col.decks.add_config_returning_id(name)
        self.set_options(conf_id, new_per_day)
        return conf_id

    def set_options(self, conf_id, new_per_day, mod=None):
        conf = self.col.decks.get_config(conf_id)
        conf["new"]["perDay"] = new_per_day
        self.col.decks.update_config(conf)
        self.date("deck_config", conf_id, mod)

    def use_options(self, deck_id, conf_id):
        deck = self.col.decks.get(deck_id)
        deck["conf"] = conf_id
        self.col.decks.save(deck)
        self.save()

    def remove_options(self, conf_id):
        self.col.decks.remove_config(conf_id)
        self.save()

    def notetype_dict(self, name):
        return call(self.col.models, "by_name byName", name)

    def notetype_id(self, name):
        return int(self.notetype_dict(name)["id"])

    def add_notetype(self, name, fields, templates=1):
        models = self.col.models
        model = models.new(name)
        for field in fields:
            models.add_field(model, models.new_field(field))
        for index in range(templates):
            template = models.new_template(f"Card {index + 1}")
            template["qfmt"] = "{{%s}}" % fields[index % len(fields)]
            template["afmt"] = "{{FrontSide}}<hr>"
            models.add_template(model, template)
        models.add(model)
        self.save()
        return self.notetype_id(name)

    def save_notetype(self, model):
        call(self.col.models, "update_dict save", model)

    def style_notetype(self, name, css, mod=None, **extra):
        """Change a notetype's styling and any other keys; no schema change."""
        model = self.notetype_dict(name)
        model["css"] = css
        model.update(extra)
        self.save_notetype(model)
        self.date("notetypes", int(model["id"]), mod)

    def edit_template(self, name, question):
        model = self.notetype_dict(name)
        model["tmpls"][0]["qfmt"] = question
        self.save_notetype(model)
        self.save()

    def rename_field(self, name, index, new_name):
        """Rename a field; clients from before 2.1.50 or so do it without a schema change too."""
        model = self.notetype_dict(name)
        self.col.models.rename_field(model, model["flds"][index], new_name)
        self.save_notetype(model)
        self.save()

    def add_field(self, name, field):
        """Forces a one-way sync."""
        self.change_schema()
        model = self.notetype_dict(name)
        self.col.models.add_field(model, self.col.models.new_field(field))
        self.save_notetype(model)
        self.save()

    def add_template(self, name, question):
        """Forces a one-way sync."""
        self.change_schema()
        model = self.notetype_dict(name)
        template = self.col.models.new_template("Another")
        template["qfmt"], template["afmt"] = question, "{{FrontSide}}"
        self.col.models.add_template(model, template)
        self.save_notetype(model)
        self.save()

    def remove_notetype(self, notetype_id):
        call(self.col.models, "remove", notetype_id)
        self.save()

    def change_schema(self):
        if hasattr(type(self.col), "mod_schema"):
            self.col.mod_schema(check=False)
        else:
            self.col.modSchema(check=False)

    def date(self, table, row_id, mod):
        """Make a change look as if done at the given second."""
        if mod is not None:
            self.col.db.execute(f"update {table} set mtime_secs=?, usn=-1 where id=?", mod, row_id)
            self.backend_forgets()
        self.save()

    def backend_forgets(self):
        """Rows changed behind its back: let the backend read them anew."""
        path = self.col.path
        self.col.close()
        self.col = Collection(path)

    # the rest of the collection

    def set_config(self, key, value):
        self.col.set_config(key, value)
        self.save()

    def remove_config(self, key):
        self.col.remove_config(key)
        self.save()

    def config(self, key):
        if hasattr(self.col, "get_config"):
            return self.col.get_config(key)
        return self.col.conf.get(key)

    def set_creation_stamp(self, seconds):
        self.col.crt = seconds
        self.save()

    def date_collection(self, mod_ms):
        """Which of client and server is newer decides whose config wins."""
        # behind the backend's back: old ones note the time of every commit
        path = self.col.path
        self.col.close()
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute("update col set mod=?", [mod_ms])
        self.col = Collection(path)

    def rows(self, sql, *args):
        return [list(row) for row in self.col.db.all(sql, *args)]

    def execute(self, sql, *args):
        self.col.db.execute(sql, *args)
        self.save()

    def pending(self):
        """Rows that wait to be sent."""
        tables = ["cards", "notes", "revlog", "graves", "decks", "deck_config", "notetypes", "tags"]
        return sum(self.col.db.scalar(f"select count() from {table} where usn=-1") for table in tables)

    def state(self):
        """What two devices that are in sync agree on, whatever their versions."""
        db = self.col.db
        tables = {
            "notes": f"select {NOTE_COLUMNS} from notes order by id",
            "cards": f"select {CARD_COLUMNS} from cards order by id",
            "card data": "select id, data from cards where data not in ('', '{}') order by id",
            "revlog": "select id, cid, ease, ivl, lastIvl, factor, time, type from revlog order by id",
            "tags": "select tag from tags order by tag",
        }
        out = {name: [list(row) for row in db.all(sql)] for name, sql in tables.items()}
        out["crt"] = db.scalar("select crt from col")
        out["decks"] = sorted((self.portrait(d) for d in self.all_decks()), key=lambda d: d["id"])
        confs = self.col.decks.all_config()
        out["options"] = sorted((self.portrait(c) for c in confs), key=lambda c: c["id"])
        out["notetypes"] = sorted((self.portrait(m) for m in self.col.models.all()), key=lambda m: m["id"])
        return out

    def all_decks(self):
        return self.col.decks.all()

    def portrait(self, thing):
        """The keys that every version knows, and those that no version does."""
        thing = dict(thing)
        for key in ("usn", "mod"):
            thing.pop(key, None)
        out = {key: thing.get(key) for key in ("id", "name", "desc", "css", "dyn", "conf")}
        out["id"] = int(out["id"])
        out["mod"] = self.modified(thing)
        out["fields"] = [f["name"] for f in thing.get("flds", [])]
        out["templates"] = [[t["name"], t["qfmt"], t["afmt"]] for t in thing.get("tmpls", [])]
        out["new per day"] = thing["new"]["perDay"] if isinstance(thing.get("new"), dict) else None
        out["unknown"] = {key: value for key, value in thing.items() if key.startswith("x-")}
        return out

    def modified(self, thing):
        table = (
            "notetypes"
            if "flds" in thing
            else "decks"
            if "dyn" in thing and "desc" in thing
            else "deck_config"
        )
        return self.col.db.scalar(f"select mtime_secs from {table} where id=?", int(thing["id"]))

    def all_config(self):
        """The whole configuration, as it is stored."""
        return {row[0]: row[1] for row in self.rows("select key, cast(val as text) from config order by key")}

    def blobs(self):
        """Decks, options and notetypes byte by byte; only devices of one version agree on these."""
        queries = {
            "decks": "select id, name, mtime_secs, hex(common), hex(kind) from decks order by id",
            "deck_config": "select id, name, mtime_secs, hex(config) from deck_config order by id",
            "notetypes": "select id, name, mtime_secs, hex(config) from notetypes order by id",
            "fields": "select ntid, ord, name, hex(config) from fields order by ntid, ord",
            "templates": "select ntid, ord, name, mtime_secs, hex(config) from templates order by ntid, ord",
        }
        return {name: self.rows(sql) for name, sql in queries.items()}

    def check(self):
        """Anki's own database check; returns whether it found nothing wrong."""
        fix = getattr(self.col, "fix_integrity", None) or self.col.fixIntegrity
        problems, ok = fix()
        return [problems, ok]

    # media

    def media_folder(self):
        return self.col.media.dir()

    def write_media(self, name, size, seed):
        """Write a file whose bytes follow from a seed."""
        unit = (f"{seed}:{name}:").encode()
        data = (unit * (size // len(unit) + 1))[:size]
        with open(os.path.join(self.media_folder(), name), "wb") as file:
            file.write(data)
        self.touch_media()

    def write_many(self, prefix, count, size):
        for i in range(count):
            with open(os.path.join(self.media_folder(), f"{prefix}{i:05}.bin"), "wb") as file:
                file.write((f"{prefix} {i} ".encode() * size)[:size])
        self.touch_media()

    def remove_media(self, name):
        os.unlink(os.path.join(self.media_folder(), name))
        self.touch_media()

    def touch_media(self):
        """Clients look for changed files only when the folder's time, in seconds for old ones, is another.

        And a file is another one if its time is: so the stamp is never that of a file just written.
        """
        folder = self.media_folder()
        self.media_stamp = max(self.media_stamp + 2, int(time.time()) + 10)
        for entry in os.scandir(folder):
            if entry.stat().st_mtime > self.media_stamp - 12:
                continue
        os.utime(folder, (self.media_stamp, self.media_stamp))

    def touch_file(self, name):
        path = os.path.join(self.media_folder(), name)
        os.utime(path, (self.media_stamp, self.media_stamp))

    def media(self):
        """Name, size and a checksum of every file."""
        import zlib

        out = []
        for entry in sorted(os.scandir(self.media_folder()), key=lambda e: e.name):
            with open(entry.path, "rb") as file:
                data = file.read()
            out.append([entry.name, len(data), zlib.crc32(data)])
        return out


def main():
    # what the package prints must not mix with the answers
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    device = Device()
    for line in sys.stdin:
        operation, args, kwargs = json.loads(line)
        try:
            answer = {"result": getattr(device, operation)(*args, **kwargs)}
        except Exception as error:  # noqa: BLE001 - the caller decides what an error means
            traceback.print_exc()
            answer = {"error": [type(error).__name__, str(error)]}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
