"""One-way syncs: the first ones, and those that a change of the schema forces."""

from __future__ import annotations

from tests.conformance.device import Device, assert_same, converge


def test_the_first_device_uploads_and_the_second_downloads(fresh_pair: tuple[Device, Device]) -> None:
    a, b = fresh_pair
    a.add_notes([["front", "back"]], deck="A::B", tags=["x"])
    a.review(1)
    assert a.sync() in {"full", "upload"}
    a.upload()
    assert b.sync() == "download"
    b.download()
    assert_same(a, b)
    assert a.sync() == b.sync() == "no changes"


def test_empty_collections_sync(fresh_pair: tuple[Device, Device]) -> None:
    a, b = fresh_pair
    a.upload()
    b.download()
    converge(a, b)
    assert_same(a, b)
    b.add_notes([["first", "note"]])
    converge(b, a)
    assert_same(a, b)


def test_a_device_with_notes_is_not_overwritten_by_an_empty_server(fresh_pair: tuple[Device, Device]) -> None:
    a, b = fresh_pair
    b.upload()
    a.add_notes([["kept", "kept"]])
    assert a.sync() == "upload"
    a.upload()
    assert b.sync() == "download"
    b.download()
    assert_same(a, b)


def test_both_devices_are_asked_when_both_have_notes(fresh_pair: tuple[Device, Device]) -> None:
    a, b = fresh_pair
    a.add_notes([["from a", ""]])
    b.add_notes([["from b", ""]])
    a.first_upload()
    assert b.sync() == "full"
    b.upload()
    assert a.sync() == "full"
    a.download()
    assert_same(a, b)
    assert [row[5] for row in a.state()["notes"]] == ["from b\x1f"]


def test_a_new_field_forces_a_one_way_sync(pair: tuple[Device, Device]) -> None:
    a, b = pair
    a.add_field("Basic", "Extra")
    assert a.sync() == "full"
    a.upload()
    assert b.sync() == "full"
    b.download()
    assert_same(a, b)
    notetype = next(n for n in b.state()["notetypes"] if n["name"] == "Basic")
    assert notetype["fields"] == ["Front", "Back", "Extra"]
    b.add_notes([["three", "fields", "now"]])
    converge(b, a)
    assert_same(a, b)


def test_a_new_template_forces_a_one_way_sync_downwards(pair: tuple[Device, Device]) -> None:
    a, b = pair
    b.add_notes([["lost", "by choice"]])
    b.add_template("Basic", "{{Back}}")
    assert b.sync() == "full"
    b.download()
    assert_same(a, b)
    converge(b, a)


def test_removed_notetypes_and_options_go_one_way(pair: tuple[Device, Device]) -> None:
    a, b = pair
    a.add_notetype("Short-lived", ["F"])
    options = a.add_options("Short-lived", 7)
    converge(a, b)
    a.remove_notetype(a.notetype_id("Short-lived"))
    a.remove_options(options)
    a.first_upload()
    b.first_download()
    assert_same(a, b)
    assert "Short-lived" not in {thing["name"] for thing in b.state()["notetypes"] + b.state()["options"]}


def test_uploads_alternate_with_incremental_syncs(pair: tuple[Device, Device]) -> None:
    a, b = pair
    for round_ in range(3):
        first, second = (a, b) if round_ % 2 else (b, a)
        first.add_notes([[f"round {round_}", "one way"]])
        first.change_schema()
        first.first_upload()
        second.first_download()
        second.add_notes([[f"round {round_}", "merged"]])
        converge(second, first)
        assert_same(a, b)


def test_a_thousand_kilobyte_note_survives_every_way(pair: tuple[Device, Device]) -> None:
    a, b = pair
    long = "ünïcode \U0001f600 " * 70_000
    (note,) = a.add_notes([[long, "back"]])
    converge(a, b)
    assert b.rows("select flds from notes where id=?", note) == [[long.strip() + "\x1fback"]] or (
        b.rows("select flds from notes where id=?", note) == [[long + "\x1fback"]]
    )
    b.change_schema()
    b.first_upload()
    a.first_download()
    assert_same(a, b)
