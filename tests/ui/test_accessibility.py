"""Views in both themes and on a phone (desks 7): axe-core, console, sideways overflow, skip link, names.

The whole walk over every view of every desk is `make test-views`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.ui.accessibility import PHONE, nodes_of, walk
from tests.ui.browsing import Live, Visit
from tests.ui.screenshots import LARGEST
from tests.ui.views import alive, fill, views
from ui.server import background

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("home", "annotate", "curate-images", "train-new")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = create_workspace(tmp_path_factory.mktemp("views") / "workspace")
    yield workspace
    workspace.close()


def test_a_violation_and_an_error_are_found(browser: Browser) -> None:
    """The check itself: a field without a name is critical."""
    page = browser.new_page()
    page.set_content("<html lang='en'><title>t</title><main><h1>t</h1><select><option>a</select></main>")
    assert [(node["rule"], node["impact"]) for node in nodes_of(page)] == [("select-name", "critical")]
    page.close()


def test_the_views_of_each_kind_have_no_finding(browser: Browser, live: Live) -> None:
    with live[1].catalog(read_only=True) as catalog:
        first = catalog.images.ids()[0]
    seen = list(walk(browser, live[0], [view for view in views(first) if view.name in QUICK]))
    assert len(seen) == len(QUICK)
    assert not [line for one in seen for line in (*one.serious, *one.errors)]
    assert [one.overflow for one in seen] == [0] * len(QUICK)


@pytest.mark.views
@pytest.mark.timeout(1800)
def test_no_view_has_a_serious_finding(browser: Browser, filled: Workspace) -> None:
    first = fill(filled)
    with alive(filled), background(filled) as where:
        seen = list(walk(browser, where.url, views(first)))
    assert not [line for one in seen for line in one.errors]
    assert not [line for one in seen for line in one.serious]
    assert not [(one.view.name, one.overflow) for one in seen if one.overflow > 0]


@pytest.mark.parametrize("path", ["/", "/annotate", "/train"])
def test_the_first_tab_stop_skips_to_the_content(visit: Visit, live: Live, path: str) -> None:
    page = visit("admin", "/rounds")
    page.goto(live[0] + path)
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_attached()
    skip.focus()
    expect(skip).to_be_in_viewport(ratio=1)
    assert page.evaluate(
        "() => document.querySelector('a, button, input, select') === document.activeElement"
    )
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.matches('main, [role=main]')")


def test_fields_have_short_names_and_their_help_as_description(visit: Visit, live: Live) -> None:
    page = visit("engineer", "/train")
    page.goto(f"{live[0]}/train?new=1")
    steps = page.locator('[data-path="training.steps"] input')
    expect(steps).to_have_accessible_name(re.compile("^Training length"))
    assert len(
        steps.evaluate("one => document.getElementById(one.getAttribute('aria-describedby')).textContent")
    )
    page.get_by_text("All settings").click()
    names = [name(page, place) for place in range(page.locator(".settings input:visible").count())]
    assert all(0 < len(one) < 60 for one in names), [one for one in names if not 0 < len(one) < 60]


def name(page: Page, place: int) -> str:
    """The text that names a field, from its label, its `aria-label` or what `aria-labelledby` points at."""
    return str(
        page.locator(".settings input:visible")
        .nth(place)
        .evaluate(
            """one => one.getAttribute("aria-label") ?? (one.hasAttribute("aria-labelledby")
              ? document.getElementById(one.getAttribute("aria-labelledby")).textContent
              : [...one.labels].map((label) => label.textContent).join(" "))"""
        )
    )


def test_a_phone_shows_where_one_is(visit: Visit, live: Live) -> None:
    """The navigation brings its active item into view."""
    page = visit("admin", "/rounds")
    page.set_viewport_size(PHONE)
    for path in ("/rounds", "/study"):
        page.goto(live[0] + path)
        expect(page.locator(".clinic-bar nav [aria-current]")).to_be_in_viewport(ratio=1)


def test_the_documentation_shows_every_sheet() -> None:
    """`docs/views.md` names each sheet of screenshots, none of which is large, and every view is on one."""
    page = (ROOT / "docs" / "views.md").read_text()
    sheets = sorted((ROOT / "docs" / "images" / "views").glob("*.jpg"))
    shown = re.findall(r"!\[([^\]]+)\]\(images/views/([\w-]+\.jpg)\)", page)
    assert sorted(file for _, file in shown) == [one.name for one in sheets]
    assert all(one.stat().st_size <= LARGEST for one in sheets)
    named = {name for names, _ in shown for name in names.split(", ")}
    assert named == {view.name for view in views("any")}, "draw the sheets again: docs/views.md"
