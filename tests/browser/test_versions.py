"""What was uploaded by mistake is undone by its user, and real clients follow."""

from __future__ import annotations

import pytest
from anki._backend import RustBackend
from anki.collection import Collection

from tests.conformance.device import assert_same


def test_a_user_goes_back_after_a_mistaken_upload_and_two_clients_end_equal(browser, user, device):
    first, second = device(), device()
    first.add_notes([[f"word {number}", "answer"] for number in range(20)])
    first.first_upload()
    second.first_download()
    expected = first.state()
    mistaken = device()
    mistaken.add_notes([["a mistake", "answer"]])
    assert mistaken.sync() == "full"
    mistaken.upload()

    browser.sign_in(user)
    browser.follow("Versions")
    assert "19 notes more, 19 cards more than now" in browser.text
    browser.page.locator(".rows > li", has_text="19 notes more").first.get_by_role("link").click()
    browser.press("Go back to version")
    assert "20 notes, 20 cards" in browser.text
    assert "Press Download from AnkiWeb" in browser.text

    for one in (first, second, mistaken):
        assert one.sync() in {"full", "download"}
        one.download()
    assert_same(first, second, mistaken)
    assert first.state()["notes"] == expected["notes"]
    browser.follow("All versions")
    assert "an earlier version, brought back" in browser.text
    assert "19 notes fewer, 19 cards fewer than now" in browser.text  # the mistake itself


def test_a_version_names_the_device_that_made_it(browser, user, device):
    one = device()
    one.add_notes([["word", "answer"]])
    one.first_upload()
    one.add_notes([["another", "answer"]])
    one.settle()
    browser.sign_in(user)
    browser.follow("Versions")
    rows = browser.page.locator(".rows > li")
    assert "2 notes, 2 cards, 0 reviews" in rows.nth(0).inner_text()
    assert all("Anki 2" in text and ", Linux" in text for text in rows.all_inner_texts()[:2])


def test_a_version_is_downloaded_as_a_package_that_anki_imports(browser, user, device, tmp_path):
    one = device()
    one.add_notes([["word", "answer"]])
    one.first_upload()
    browser.sign_in(user)
    browser.follow("Versions")
    browser.page.locator(".rows > li").nth(0).get_by_role("link").click()
    with browser.page.expect_download() as coming:
        browser.page.get_by_role("link", name="Download as .colpkg").click()
    package = tmp_path / coming.value.suggested_filename
    coming.value.save_as(package)
    assert package.suffix == ".colpkg"
    assert note_count(package, tmp_path) == 1


def note_count(package, folder) -> int:
    """As Anki counts them after an import."""
    backend = RustBackend(langs=["en"], server=False)
    media = folder / "imported.media"
    media.mkdir()
    path = folder / "imported.anki2"
    backend.import_collection_package(
        col_path=str(path), backup_path=str(package), media_folder=str(media), media_db=f"{media}.db"
    )
    col = Collection(str(path))
    try:
        return col.note_count()
    finally:
        col.close()


@pytest.mark.parametrize(
    "path",
    ["version?number=999", "version?number=x", "version-file?number=999", "version"],
)
def test_a_version_that_is_not_there_is_a_page_that_is_not_there(browser, user, path):
    browser.sign_in(user)
    assert browser.open(path).status == 404


def test_nobody_sees_the_versions_of_somebody_else(browser, make_browser, server, user, device):
    one = device()
    one.add_notes([["word", "answer"]])
    one.first_upload()
    other = make_browser()
    other.sign_in(server.next_user())
    assert other.open("version?number=1").status == 404
    assert other.open("version-file?number=1").status == 404
    stranger = make_browser()
    stranger.open("versions")
    assert "Sign in" in stranger.text


SCRIPT = "<script>document.title = 'run'</script><img src=x onerror=\"document.title='run'\">"


def test_a_script_in_the_name_of_a_deck_is_text(browser, user, device):
    one = device()
    one.add_notes([["word", "answer"]], deck=f"{SCRIPT}::sub")
    one.first_upload()
    browser.sign_in(user)
    browser.follow("Versions")
    browser.page.locator(".rows > li").first.get_by_role("link").click()
    browser.follow("Show its decks")
    assert f"{SCRIPT}::sub" in browser.text
    assert "1 card" in browser.text
    assert browser.page.title().startswith("Decks of version")
