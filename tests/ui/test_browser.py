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
    assert cards == ["Import", "Annotate", "Curate", "Rounds", "Gradio"]
    expect(page.locator(".clinic-bar nav a")).to_have_count(5)
    page.goto(page.url + "admin")
    expect(page.get_by_role("heading", name="Access denied")).to_be_visible()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_desk_opens_without_an_error(visit: Visit, live: Live) -> None:
    url, _ = live
    page = visit("admin", "/")
    for desk in DESKS:
        if desk.mount_gradio is not None:
            page.goto(url + desk.path)
            expect(page.get_by_role("tab").first).to_be_visible(timeout=PATIENCE_MS)
            current = page.locator(".clinic-bar nav a[aria-current=page]")
            expect(current).to_have_text(desk.title, timeout=PATIENCE_MS)


@pytest.mark.slow
def test_the_admins_figures_and_tables_are_filled(visit: Visit, live: Live) -> None:
    page = visit("admin", "/admin")
    page.get_by_role("tab", name="System").click()
    figures = page.locator(".figures li")
    expect(figures).to_have_count(6, timeout=PATIENCE_MS)
    expect(figures.nth(1)).to_have_text("8 images")
    expect(page.get_by_text("No worker is running")).to_be_visible()
    page.get_by_role("button", name="Calculate disk use").click()
    blobs = page.locator('[data-testid^="cell-"]:visible:has-text("blobs")')
    expect(blobs).to_have_count(1, timeout=PATIENCE_MS)


def test_links_and_going_back_stay_on_the_page(visit: Visit, live: Live) -> None:
    """One router for all desks: views change without a new page, and the address always names the view."""
    page, view = visit("engineer", "/rounds"), "#view[data-ready={}]"
    page.wait_for_selector(view.format("rounds"))
    page.evaluate("window.samePage = true")
    page.get_by_role("link", name="Jobs and workers").click()
    page.wait_for_selector(view.format("jobs"))
    assert page.url.endswith("/rounds?view=jobs")
    expect(page.locator("#views a[aria-current=page]")).to_have_text("Jobs and workers")
    page.go_back()
    page.wait_for_selector(view.format("rounds"))
    assert page.url.endswith("/rounds") and page.evaluate("window.samePage")
    page.goto(f"{live[0]}/train?run=nothing")
    expect(page.locator(".note.bad")).to_contain_text("there is no run 'nothing'")
    page.get_by_role("link", name="← Train").click()
    page.wait_for_selector(view.format("overview"))
    assert page.url.endswith("/train")
