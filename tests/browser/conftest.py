"""Chromium beside a server with two workers and real Anki clients."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from tests.conformance.device import Device, made_devices
from tests.support import aws
from tests.support.cluster import Cluster, cloud
from tests.support.servers import OURS, Server, User, make_users, serving

CHROMIUM = ("chromium", "chromium-browser")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE, DESKTOP = (390, 844), (1280, 900)
MOST_USERS = 60
LARGEST_PAGE_BYTES = 100 * 1024


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


class Browser:
    """One person's browser, with cookies of its own. Notes what a page must never do."""

    def __init__(self, context: Any, server: Server) -> None:
        self.context, self.server = context, server
        self.faults: list[str] = []
        self.bytes_of: dict[str, int] = {}
        context.on("console", lambda message: self._note(message.type, message.text))
        context.on("weberror", lambda error: self._note("error", str(error.error)))
        context.on("response", self._measure)
        self.page = context.new_page()

    def open(self, path: str = "") -> Any:
        """Go to a page of the server; returns its answer."""
        return self.page.goto(self.server.url + path)

    def sign_in(self, user: User, password: str | None = None) -> None:
        self.open()
        self.page.get_by_label("User name").fill(user.name)
        self.page.get_by_label("Password").fill(password or user.password)
        self.press("Sign in")

    def press(self, name: str) -> None:
        """Press a button, and wait for the page that it leads to."""
        with self.page.expect_navigation():
            self.page.get_by_role("button", name=name).first.click()

    def follow(self, name: str) -> None:
        """Follow a link."""
        with self.page.expect_navigation():
            self.page.get_by_role("link", name=name).first.click()

    @property
    def text(self) -> str:
        """What the page says."""
        return str(self.page.locator("body").inner_text())

    def is_signed_in(self) -> bool:
        self.open()
        return bool(self.page.get_by_role("button", name="Sign out").count())

    def _note(self, kind: str, text: str) -> None:
        # A browser writes a line for each answer of 400 and above, which tests provoke.
        if kind in {"error", "warning"} and "Failed to load resource" not in text:
            self.faults.append(text)

    def _measure(self, response: Any) -> None:
        if response.headers.get("content-type", "").startswith(("text/", "image/")):
            self.bytes_of[response.url] = int(response.headers.get("content-length", "0"))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(OPTIONS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, server_kind: str) -> Iterator[Server | Cluster]:
    """Two workers; with --server=cloud three servers that take turns, click by click."""
    folder = tmp_path_factory.mktemp("browser")
    if server_kind.startswith("cloud"):
        heads = "s3" if server_kind == "cloud-s3" else "dynamodb"
        with (
            aws.moto() as engine,
            cloud(folder, engine, heads) as place,
            Cluster(folder, make_users(MOST_USERS), place) as cluster,
        ):
            yield cluster
        return
    with serving(OURS, folder / "data", MOST_USERS, {"ANKISYNCD_WORKERS": "2"}) as running:
        yield running


@pytest.fixture
def user(server: Server) -> User:
    return server.next_user()


@pytest.fixture
def make_browser(chromium: Any, server: Server) -> Iterator[Callable[..., Browser]]:
    """Makes browsers; in the end none of them may have met a script, or broken the policy."""
    made: list[Browser] = []

    def make(size: tuple[int, int] = DESKTOP) -> Browser:
        context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, locale="en-GB")
        made.append(Browser(context, server))
        return made[-1]

    yield make
    for browser in made:
        browser.context.close()
    assert [fault for browser in made for fault in browser.faults] == []
    too_large = {
        url: size for browser in made for url, size in browser.bytes_of.items() if size > LARGEST_PAGE_BYTES
    }
    assert too_large == {}


@pytest.fixture
def browser(make_browser: Callable[..., Browser]) -> Browser:
    return make_browser()


@pytest.fixture
def device(server: Server, user: User, tmp_path: Path) -> Iterator[Callable[[], Device]]:
    """Makes real clients of the user, logged in."""
    with made_devices(tmp_path, user) as make:
        yield lambda: make(server.url)
