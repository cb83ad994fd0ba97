"""What must be true of every page, at the width of a phone and of a desk."""

from __future__ import annotations

import json

import pytest

from tests.browser.conftest import DESKTOP, PHONE
from tests.support.dynalite import axe_source

PAGES = (
    "", "versions", "versions?kind=media", "version?number=1", "version?number=2", "version-decks?number=1",
    "version?number=1&kind=media", "restored?number=1", "restored-media?number=1&back=2&lost=1", "devices",
    "account", "uploaded?notes=1&files=2", "version?number=99",
)  # fmt: skip
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_and_the_policy_has_no_exception(make_browser, user, device, size, theme):
    one = device()
    one.add_notes([["word", "answer"]])
    one.write_media("picture.png", 3000, 1)
    one.first_upload()
    one.sync_media()
    one.write_media("sound.mp3", 3000, 2)
    one.sync_media()
    one.add_notes([["another", "answer"]])
    one.settle()
    axe = axe_source()
    browser = make_browser(size)
    browser.page.emulate_media(color_scheme=theme)
    browser.open()
    assert faults_of(browser, axe) == []
    browser.sign_in(user, "wrong")
    assert faults_of(browser, axe) == []
    browser.sign_in(user)
    for path in PAGES:
        answer = browser.open(path)
        assert answer.headers["content-security-policy"] == POLICY, path
        assert "<script" not in answer.text(), path
        assert " style=" not in answer.text(), path
        assert faults_of(browser, axe) == [], path
        assert browser.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    browser.page.evaluate("document.querySelector('main').append(document.createElement('input'))")
    assert "label" in faults_of(browser, axe)[0]  # so it does look


def faults_of(browser, axe: str) -> list[str]:
    """What axe finds, and where; it is run by the debugger's protocol, which the policy does not rule."""
    browser.page.evaluate(axe)
    found = browser.page.evaluate("axe.run().then(found => JSON.stringify(found.violations))")
    return [f"{fault['id']}: {node['html'][:120]}" for fault in json.loads(found) for node in fault["nodes"]]


def test_the_pages_work_without_scripts(chromium, server, user):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(server.url)
    page.get_by_label("User name").fill(user.name)
    page.get_by_label("Password").fill(user.password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Versions").click()
    page.wait_for_url("**/versions")
    assert page.get_by_role("heading", name="Versions").count() == 1
    context.close()


@pytest.mark.parametrize("path", ["versions", "version?number=1", "devices", "account", "all-data"])
def test_a_stranger_is_led_to_the_first_page(browser, server, path):
    browser.open(path)
    assert browser.page.url == f"{server.url}"
