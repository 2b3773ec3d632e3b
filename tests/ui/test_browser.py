"""Headless Chromium on the real pages: sign-in, roles, and every desk without an error."""

import pytest
from playwright.sync_api import expect

from tests.ui.browsing import PATIENCE_MS, Live, Visit
from ui.desks import DESKS

pytestmark = pytest.mark.browser


def test_signing_out_leads_back_to_the_form(visit: Visit, live: Live) -> None:
    url, _ = live
    page = visit("rater", "/study")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{url}/login*")
    page.goto(f"{url}/study")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_home_leads_where_the_role_may_go(visit: Visit) -> None:
    page = visit("curator", "/")
    cards = page.locator(".areas a b").all_text_contents()
    assert cards == ["Annotate", "Curate", "Rounds"]
    expect(page.locator(".clinic-bar nav a")).to_have_count(3)
    page.goto(page.url + "admin")
    expect(page.get_by_role("heading", name="Not for your role")).to_be_visible()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_desk_opens_without_an_error(visit: Visit, live: Live) -> None:
    url, _ = live
    page = visit("admin", "/")
    for desk in DESKS:
        if desk.mount_gradio is not None:
            page.goto(url + desk.path)
            expect(page.locator(".desk-heading h1").first).to_have_text(desk.title, timeout=PATIENCE_MS)
            current = page.locator(".clinic-bar nav a[aria-current=page]")
            expect(current).to_have_text(desk.title, timeout=PATIENCE_MS)
