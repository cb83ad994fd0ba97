"""Devices are logged out, and let in by passwords of their own."""

from __future__ import annotations

import time

import pytest

from tests.conformance.device import ClientError
from tests.support.servers import User

WORKERS = 2


@pytest.mark.one_server
def test_a_device_that_is_logged_out_can_no_longer_sync_and_others_can(browser, user, device):
    lost, kept = device(), device()
    lost.add_notes([["word", "answer"]])
    lost.first_upload()
    browser.sign_in(user)
    browser.follow("Devices")
    oldest = browser.page.locator(".rows").first.locator("li").last
    with browser.page.expect_navigation():
        oldest.get_by_role("button").click()
    assert "It is logged out" in browser.text
    deadline_s = time.monotonic() + 30
    for _ in range(4 * WORKERS):  # whichever worker answers
        with pytest.raises(ClientError):
            lost.sync()
    assert time.monotonic() < deadline_s
    kept.first_download()


@pytest.mark.one_server
def test_all_devices_and_other_browsers_are_logged_out_at_once(browser, make_browser, user, device):
    one = device()
    one.add_notes([["word", "answer"]])
    one.first_upload()
    elsewhere = make_browser()
    elsewhere.sign_in(user)
    browser.sign_in(user)
    browser.follow("Devices")
    browser.press("Log out all")
    assert "No device is logged in." in browser.text
    assert browser.is_signed_in()
    assert not elsewhere.is_signed_in()
    with pytest.raises(ClientError):
        one.sync()


def make_password(browser, name: str) -> str:
    browser.open("devices")
    browser.page.get_by_label("Name of the device").fill(name)
    browser.press("Make a password")
    return str(browser.page.locator("#password").inner_text())


@pytest.mark.one_server
def test_a_device_syncs_by_a_password_of_its_own_until_that_is_deleted(browser, user, server, device):
    browser.sign_in(user)
    password = make_password(browser, "My phone")
    phone = device()
    phone.log_in(server.url, User(user.name, password))
    phone.add_notes([["word", "answer"]])
    phone.first_upload()
    browser.follow("Versions")
    assert "My phone" in browser.page.locator(".rows > li").first.inner_text()
    browser.follow("Devices")
    assert password not in browser.page.content()
    browser.press("Delete, and log out: My phone")
    with pytest.raises(ClientError):
        phone.sync()
    with pytest.raises(ClientError):
        phone.log_in(server.url, User(user.name, password))


def test_a_password_for_a_device_needs_a_name(browser, user):
    browser.sign_in(user)
    browser.open("devices")
    browser.page.get_by_label("Name of the device").fill("   ")
    browser.press("Make a password")
    assert "This field is required." in browser.text


def test_nobody_logs_out_a_device_of_somebody_else(browser, server, user, device):
    one = device()
    one.add_notes([["word", "answer"]])
    one.first_upload()
    browser.sign_in(user)
    browser.open("devices")
    key_id = browser.page.locator("input[name=id]").first.get_attribute("value")
    browser.press("Sign out")
    browser.sign_in(server.next_user())
    make_password(browser, "mine")
    browser.open("devices")
    browser.page.evaluate("id => { document.querySelector('input[name=id]').value = id }", key_id)
    browser.press("Delete, and log out: mine")
    one.add_notes([["more", "answer"]])
    one.settle()


SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_a_script_in_the_name_of_a_device_is_text(browser, user):
    browser.sign_in(user)
    make_password(browser, SCRIPT[:40])
    assert SCRIPT[:40] in browser.text
    browser.open("devices")
    assert SCRIPT[:40] in browser.text
