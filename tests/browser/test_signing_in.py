"""The way in and out, and who else might try to use it."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.browser.conftest import Browser
from tests.support.servers import OURS, serving

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


def test_the_first_page_shows_the_address_for_anki(browser, server):
    answer = browser.open()
    assert answer.status == 200
    assert server.url in browser.text
    assert browser.page.locator("figure svg title").text_content() == "The address as a QR code"


@pytest.mark.one_server
def test_a_user_signs_in_and_out(browser, user):
    browser.sign_in(user)
    assert f"Signed in as {user.name}" in browser.text
    browser.press("Sign out")
    assert "You are signed out." in browser.text
    assert not browser.is_signed_in()


def test_a_wrong_password_is_refused_in_words(browser, user):
    browser.sign_in(user, "wrong")
    assert "The user name or the password is wrong." in browser.text
    assert not browser.is_signed_in()


@pytest.mark.one_server  # without a table each server counts for itself
def test_too_many_wrong_passwords_have_to_wait_as_in_syncs(browser, user):
    for _ in range(11):
        browser.sign_in(user, "wrong")
    assert "Too many wrong passwords." in browser.text


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(browser, user):
    browser.sign_in(user)
    (cookie,) = browser.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    assert cookie["name"] == "ankisyncd"


def test_behind_https_the_cookie_is_for_https_alone(server):
    request = urllib.request.Request(server.url, headers={"X-Forwarded-Proto": "https"})
    with urllib.request.urlopen(request) as answer:
        cookie = answer.headers["Set-Cookie"]
        page = answer.read().decode()
    assert cookie.startswith("__Host-ankisyncd=")
    assert "Secure" in cookie
    assert server.url.replace("http:", "https:") in page


def test_every_page_has_the_policy_and_no_exception(browser, user, server):
    browser.sign_in(user)
    for path in ("", "no-such-page", "pages.css"):
        headers = browser.open(path).headers
        if path != "no-such-page":
            assert headers["content-security-policy"] == POLICY
            assert headers["x-frame-options"] == "DENY"
            assert headers["x-content-type-options"] == "nosniff"


def test_a_page_cannot_be_framed(browser, server):
    browser.page.route(
        "http://other.test/",
        lambda route: route.fulfill(body=f"<iframe src='{server.url}'></iframe>", content_type="text/html"),
    )
    browser.page.goto("http://other.test/")
    assert browser.page.frames[1].url.startswith("chrome-error:")
    browser.faults.clear()  # the browser says why


def post_from(browser: Browser, origin: str, target: str, fields: dict[str, str]) -> int:
    """Let a page of another site send a form; the status of the answer."""
    inputs = "".join(f"<input name='{name}' value='{value}'>" for name, value in fields.items())
    form = f"<form method=post action='{target}'>{inputs}<button>go</button></form>"
    browser.page.route(origin, lambda route: route.fulfill(body=form, content_type="text/html"))
    browser.page.goto(origin)
    with browser.page.expect_navigation() as going:
        browser.page.click("button")
    return int(going.value.status)


@pytest.mark.one_server
def test_another_site_can_sign_nobody_out(browser, user, server):
    browser.sign_in(user)
    assert post_from(browser, "http://other.test/", server.url + "sign-out", {}) == 403
    assert browser.is_signed_in()


def test_another_site_can_sign_nobody_in_under_its_own_name(browser, user, server):
    fields = {"username": user.name, "password": user.password}
    assert post_from(browser, "http://other.test/", server.url + "sign-in", fields) == 403
    assert not browser.is_signed_in()


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_form_without_the_visitors_own_token_is_refused(browser, user, server, token):
    browser.sign_in(user)
    browser.page.evaluate("token => { document.querySelector('form input').value = token }", token)
    browser.press("Sign out")
    assert "That did not work" in browser.text
    assert browser.is_signed_in()


@pytest.mark.one_server
def test_a_stolen_cookie_is_of_no_use_once_its_owner_has_signed_out(browser, make_browser, user, server):
    browser.sign_in(user)
    thief = make_browser()
    thief.context.add_cookies(browser.context.cookies())
    assert thief.is_signed_in()
    browser.open()
    browser.press("Sign out")
    assert not thief.is_signed_in()


def test_signing_in_gives_a_cookie_that_nobody_could_have_planted(browser, user):
    browser.open()
    (before,) = browser.context.cookies()
    browser.sign_in(user)
    (after,) = browser.context.cookies()
    assert before["value"] != after["value"]


def test_the_cookie_of_the_pages_is_no_host_key(browser, user, server):
    browser.sign_in(user)
    (cookie,) = browser.context.cookies()
    header = json.dumps({"v": 10, "k": cookie["value"], "c": "test", "s": "x"})
    answer = browser.context.request.post(server.url + "sync/meta", headers={"anki-sync": header}, data=b"")
    assert answer.status in {400, 403}


@pytest.mark.one_server
def test_a_server_without_pages_has_none(tmp_path):
    with (
        serving(OURS, tmp_path / "data", 1, {"ANKISYNCD_PAGES": "off"}) as server,
        pytest.raises(urllib.error.HTTPError, match="404"),
    ):
        urllib.request.urlopen(server.url)
