"""API tokens on the pages of the account and of the Admin desk."""

import re
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect

from storage.workspace import Workspace
from tests.ui.browsing import PATIENCE_MS

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE_MS)

Visit = Callable[..., Page]


def at_account(visit: Visit, name: str, scheme: str = "light") -> Page:
    page = visit(name, "/", scheme)
    page.goto(f"{page.url}account")
    return page


def signed_in_as(url: str, text: str) -> tuple[int, str]:
    answer = httpx.get(f"{url}/api/session", headers={"Authorization": f"Bearer {text}"})
    return answer.status_code, answer.json().get("name") or answer.json()["error"]


def test_a_person_makes_and_revokes_a_token(visit: Visit, live: tuple[str, Workspace]) -> None:
    page = at_account(visit, "curator", "dark")
    page.get_by_label("Name, such as").fill("<b>nightly</b>")
    page.get_by_role("button", name="Create API token").click()
    shown = page.locator(".made code")
    expect(shown).to_have_text(re.compile("^clinic_"))
    text = shown.inner_text()
    assert signed_in_as(live[0], text) == (200, "curator")
    row = page.get_by_role("row").filter(has_text="<b>nightly</b>")
    expect(row).to_contain_text("curator")
    page.reload()
    expect(row).to_be_visible()
    assert text not in page.content()
    row.get_by_role("button", name="Revoke").click()
    expect(row).to_contain_text("was revoked on")
    assert "was revoked" in signed_in_as(live[0], text)[1]


def test_the_page_says_why_a_token_cannot_be(visit: Visit) -> None:
    page = at_account(visit, "admin")
    page.get_by_label("Name, such as").fill("no role")
    page.get_by_role("button", name="Create API token").click()
    expect(page.get_by_role("alert").filter(has_text="asks for none")).to_be_visible()
    expect(page.get_by_label("Name, such as")).to_have_value("no role")


def test_an_admin_makes_and_revokes_anybodys(visit: Visit, live: tuple[str, Workspace]) -> None:
    page = visit("admin", "/admin")
    page.get_by_role("tab", name="API tokens").click()
    panel = page.get_by_role("tabpanel").filter(has_text="Programs sign in")
    panel.get_by_label("Person").click()
    page.get_by_role("option", name="engineer").click()
    panel.get_by_label("Name, such as").fill("trainer")
    panel.get_by_role("checkbox", name="engineer").check()
    panel.get_by_role("button", name="Create", exact=True).click()
    field = panel.get_by_label("The new token")
    expect(field).to_have_value(re.compile("^clinic_"))
    text = field.input_value()
    assert signed_in_as(live[0], text) == (200, "engineer")
    panel.locator('[data-testid^="cell-"]:visible:has-text("trainer")').first.click()
    expect(panel.get_by_label("Select a row, or choose")).to_have_value("trainer, engineer's")
    panel.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("API token trainer revoked")).to_be_visible()
    assert "was revoked" in signed_in_as(live[0], text)[1]
