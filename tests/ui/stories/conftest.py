"""`clinic app` over a folder that does not exist yet, with its worker, and the browsers of its people."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.ui.browsing import PASSWORD, PATIENCE_MS, WITHOUT_TOUR

ROOT = Path(__file__).resolve().parents[3]
OWN_PASSWORD = PASSWORD + " of my own"
WORKING_MS = 900_000
"""Until a worker has loaded its models and done a small job, on a busy machine."""
READY = {"/": "main", "/annotate": "body[data-ready=true]"}
"""What is there once a page is drawn, where it is no view."""


class Story:
    """A server with its worker, and one browser for each person; whatever a page throws is kept."""

    def __init__(self, browser: Browser, link: str) -> None:
        self.browser, self.link = browser, link
        self.url = link.partition("/?")[0]
        self.pages: dict[str, Page] = {}
        self.problems: list[str] = []

    def open(self, name: str) -> Page:
        """A page of a browser in which nobody is signed in."""
        context = self.browser.new_context(viewport={"width": 1440, "height": 900})
        context.add_init_script(WITHOUT_TOUR)
        page = self.pages[name] = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.problems.append(f"{name}, {page.url}: {error}"))
        page.on("console", lambda message: self.note(name, message))
        return page

    def note(self, name: str, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"{name}, {message.location.get('url')}: {message.text}")

    def first_sign_in(self, name: str) -> Page:
        """Sign in with the password that the admin chose, and replace it, as the page demands."""
        page = self.open(name)
        page.goto(self.url)
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("An admin chose your password.")).to_be_visible()
        page.get_by_label("Current password").fill(PASSWORD)
        page.get_by_label("New password (10").fill(OWN_PASSWORD)
        page.get_by_label("New password again").fill(OWN_PASSWORD)
        page.get_by_role("button", name="Change password").click()
        page.wait_for_url(re.compile(re.escape(self.url) + "/?$"))
        return page

    def at(self, name: str, path: str) -> Page:
        """A desk as somebody, once it is drawn."""
        page = self.pages.get(name) or self.first_sign_in(name)
        page.goto(self.url + path)
        page.wait_for_selector(READY.get(path, "#view[data-ready]"))
        return page

    def finished(self, page: Page, words: str | re.Pattern[str]) -> None:
        """Wait until the job of the open dialog has succeeded, with these words."""
        line = page.locator("dialog[open] .job-line")
        expect(line).to_have_attribute("data-state", re.compile("succeeded|failed"), timeout=WORKING_MS)
        expect(page.locator("dialog[open]")).to_contain_text(words)


@pytest.fixture(scope="module")
def story(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    command = [sys.executable, "-m", "app", "--workspace", str(folder / "workspace"), "app", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    expect.set_options(timeout=PATIENCE_MS)
    with (
        (folder / "problems").open("w") as problems,
        subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=problems
        ) as running,
    ):
        assert running.stdout is not None
        first = running.stdout.readline()
        assert first.startswith("Artifact Clinic: http"), (folder / "problems").read_text()
        told = Story(browser, first.partition(": ")[2].strip())
        yield told
        for page in told.pages.values():
            page.context.close()
        running.send_signal(signal.SIGINT)
    expect.set_options(timeout=5_000)
