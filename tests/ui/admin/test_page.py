"""The Admin desk in a browser, under its strict content policy."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

from pipelines.services.admin import users
from storage.workspace import Workspace
from tests.ui.browsing import PASSWORD, PATIENCE_MS
from ui.config import ServerConfig
from ui.server import background

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)


def cell(page: Page, text: str) -> Locator:
    """The first visible cell of a table with that text."""
    return page.locator(f'[data-testid^="cell-"]:visible:has-text("{text}")').first


def test_the_first_account_is_made_and_managed_on_the_page(browser: Browser, bare: Workspace) -> None:
    """desks 1.5 and 6.2, and nothing on the way breaks the policy: a violation is an error in the console."""
    problems: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            problems.append(message.text)

    with background(bare, ServerConfig(port=0, start_token="start")) as where:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", note)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{where.url}/admin?token=start")
        expect(page.locator(".clinic-banner")).to_be_visible()
        page.get_by_label("Name", exact=True).fill("ada")
        page.get_by_label("Password (10").fill(PASSWORD)
        page.get_by_label("admin", exact=True).last.check()
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_text("You are now signed in as ada")).to_be_visible()
        expect(page.locator(".clinic-bar .who")).to_have_text("ada")
        expect(page.locator(".clinic-banner")).to_have_count(0)

        cell(page, "ada").click()
        expect(page.get_by_role("button", name="Save roles")).to_be_visible()
        page.get_by_label("New name").fill("lovelace")
        page.get_by_role("button", name="Rename").click()
        expect(page.get_by_label("Select a row, or choose")).to_have_value("lovelace")
        assert [one.user.name for one in users.list_accounts(bare)] == ["lovelace"]

        for tab, seen in (
            ("Models and endpoints", "A text-to-image model that"),
            ("Webhooks", "Select a webhook"),
            ("System", "No worker is running"),
            ("Label classes", "unreasonable content"),
            ("Audit", "renamed the account"),
            ("Erasure", "This cannot be undone"),
        ):
            page.get_by_role("tab", name=tab).click()
            expect(page.locator(f'.gradio-container :text("{seen}"):visible').first).to_be_visible()
        page.close()
    assert not problems, problems


def test_an_account_page_changes_the_password(
    visiting: Callable[..., Page], live: tuple[str, Workspace]
) -> None:
    """desks 6.1, refused with a reason first; the header's name leads there."""
    url, workspace = live
    users.add_user(workspace, "newcomer", PASSWORD, ["annotator"], "admin", keep_admin=False)
    page = visiting(url, "newcomer", "/annotate")
    page.locator(".clinic-bar .who").click()
    for current, again, words in (
        ("wrong password", "another pass phrase", "current password is wrong"),
        (PASSWORD, "something else", "two new passwords differ"),
        (PASSWORD, "another pass phrase", "Password changed"),
    ):
        page.get_by_label("Current password").fill(current)
        page.get_by_label("New password (10").fill("another pass phrase")
        page.get_by_label("New password again").fill(again)
        page.get_by_role("button", name="Change password").click()
        expect(page.get_by_text(words)).to_be_visible()
    expect(page.get_by_text("this browser")).to_be_visible()
