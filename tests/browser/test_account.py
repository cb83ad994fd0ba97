"""All data out and in, the password, and the end of an account."""

from __future__ import annotations

import zipfile
from collections.abc import Callable

import pytest

from app.config import Settings
from app.main import build_accounts, now_ms
from storage.types import run_inline
from tests.browser.test_versions import note_count
from tests.conformance.device import assert_same, made_devices
from tests.support.servers import User


@pytest.fixture
def listed(server) -> Callable[[str], User]:
    """Makes a user of the list, whose password this server keeps."""

    def make(name: str) -> User:
        settings = Settings.from_env({"ANKISYNCD_DATA_ROOT": str(server.folder / "ankisyncd")})
        accounts = build_accounts(settings, None, offload=run_inline, clock_ms=now_ms)
        accounts.users.add(name, "first password")
        return User(name, "first password")

    return make


def download_everything(browser, folder):
    browser.open("account")
    with browser.page.expect_download() as coming:
        browser.page.get_by_role("link", name="Download everything").click()
    package = folder / coming.value.suggested_filename
    coming.value.save_as(package)
    return package


def upload(browser, package) -> None:
    browser.open("account")
    browser.page.get_by_label("File").set_input_files(str(package))
    browser.press("Upload")


def test_everything_goes_out_and_comes_in_elsewhere_with_its_media(
    browser, make_browser, server, user, device, tmp_path
):
    one = device()
    (tmp_path / "other").mkdir()
    one.add_notes([["word", "<img src='picture.png'>"]])
    one.write_media("picture.png", 3000, 1)
    one.write_media("large.bin", 1_500_000, 2)
    one.first_upload()
    one.sync_media()
    browser.sign_in(user)
    package = download_everything(browser, tmp_path)
    assert note_count(package, tmp_path) == 1

    other_user = server.next_user()
    other = make_browser()
    other.sign_in(other_user)
    upload(other, package)
    assert "It has 1 note. The package had 2 files of media." in other.text
    other.follow("All versions")
    assert "uploaded on this page" in other.text
    with made_devices(tmp_path / "other", other_user) as make:
        two = make(server.url)
        two.first_download()
        two.sync_media()
        assert two.media() == one.media()


def test_a_package_that_is_uploaded_can_be_undone_and_devices_follow(browser, user, device, tmp_path):
    first, second = device(), device()
    first.add_notes([["old", "answer"]])
    first.first_upload()
    browser.sign_in(user)
    package = download_everything(browser, tmp_path)
    first.add_notes([["new", "answer"]])
    first.settle()
    second.first_download()
    upload(browser, package)
    for one in (first, second):
        assert one.sync() in {"full", "download"}
        one.download()
    assert_same(first, second)
    browser.open("versions")
    browser.page.locator(".rows > li", has_text="1 note more").first.get_by_role("link").click()
    browser.press("Go back to version")
    assert "2 notes, 2 cards" in browser.text


@pytest.mark.parametrize("kind", ["text", "zip", "bomb"])
def test_what_is_no_package_changes_nothing(browser, user, device, tmp_path, kind):
    one = device()
    one.add_notes([["word", "answer"]])
    one.first_upload()
    file = tmp_path / "some.colpkg"
    if kind == "text":
        file.write_bytes(b"not a zip")
    else:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("meta", b"\x08\x01")
            content = bytes(400 * 1024 * 1024) if kind == "bomb" else b"nonsense"
            archive.writestr("collection.anki2", content)
            archive.writestr("media", b"{}")
    browser.sign_in(user)
    upload(browser, file)
    assert "Nothing was changed" in browser.text
    one.settle()


@pytest.mark.one_server
def test_a_changed_password_logs_out_all_but_this_browser(browser, make_browser, listed):
    user = listed("changer")
    elsewhere = make_browser()
    elsewhere.sign_in(user)
    browser.sign_in(user)
    browser.follow("My data")
    fill_password(browser, "wrong", "second password")
    assert "This is not your present password." in browser.text
    fill_password(browser, user.password, "short")
    assert "at least 8 characters" in browser.text
    fill_password(browser, user.password, "second password")
    assert "Your password is changed." in browser.text
    assert not elsewhere.is_signed_in()
    elsewhere.sign_in(user)
    assert "is wrong" in elsewhere.text
    elsewhere.sign_in(user, "second password")
    assert elsewhere.is_signed_in()


def fill_password(browser, current: str, new: str) -> None:
    browser.page.get_by_label("Present password").fill(current)
    browser.page.get_by_label("New password", exact=True).fill(new)
    browser.page.get_by_label("New password again").fill(new)
    browser.page.evaluate(
        "document.querySelectorAll('input').forEach(one => one.removeAttribute('minlength'))"
    )
    browser.press("Change the password")


def test_a_user_of_the_environment_is_told_where_the_password_is(browser, user):
    browser.sign_in(user)
    browser.follow("My data")
    assert "Your password is kept elsewhere" in browser.text


def test_an_account_has_seven_days_before_it_is_deleted(browser, user, device):
    one = device()
    one.add_notes([["word", "answer"]])
    one.first_upload()
    browser.sign_in(user)
    browser.follow("My data")
    browser.page.get_by_label("Your password").fill("wrong")
    browser.press("Delete my data in 7 days")
    assert "This is not your password." in browser.text
    browser.page.get_by_label("Your password").fill(user.password)
    browser.press("Delete my data in 7 days")
    assert "It goes in 7 days" in browser.text or "It goes in 1 week" in browser.text
    one.settle()
    browser.press("Keep my account")
    assert "Your account stays." in browser.text
    assert "Delete my data in 7 days" in browser.text
