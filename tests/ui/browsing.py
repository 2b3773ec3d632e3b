"""One headless Chromium for the session, and pages opened as somebody."""

import re
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from storage.workspace import Workspace
from tests.services import chromium_path

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000
PASSWORD = "correct horse battery"
WITHOUT_TOUR = "localStorage.setItem('clinic.tour', 'never')"

Live = tuple[str, Workspace]
Visit = Callable[..., Page]


def until(page: Page, expression: str, arg: object = None) -> None:
    """Ask the page until the JavaScript `expression` is true.

    Playwright's `wait_for_function` compiles it again in the page, which a policy without `unsafe-eval`
    forbids from the second time on.

    Raises:
        AssertionError: It is still false after `PATIENCE_MS`.
    """
    end = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(expression, arg):
        assert time.monotonic() < end, f"still false after {PATIENCE_MS / 1000:.0f} s: {expression}"
        page.wait_for_timeout(10)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visiting(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page of a server as somebody, through the form; at the end no page may have thrown anything."""
    problems: list[str] = []
    contexts = []

    def visit(
        url: str, name: str, path: str, scheme: str = "light", tour: bool = False, **how: object
    ) -> Page:
        size = {"width": 1200, "height": 800}
        context = browser.new_context(viewport=size, color_scheme=scheme, **how)  # type: ignore[arg-type]
        contexts.append(context)
        if not tour:
            context.add_init_script(WITHOUT_TOUR)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
        page.goto(url + path)
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(re.compile(re.escape(url + path) + "/?$"))
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not problems, problems


@pytest.fixture
def visit(visiting: Callable[..., Page], live: Live) -> Visit:
    """As `visiting`, on the shared server with all desks."""
    return lambda name, path, scheme="light": visiting(live[0], name, path, scheme)
