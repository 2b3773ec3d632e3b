"""The Gradio app in a browser, under the content policy of its path, in both themes."""

from collections.abc import Callable

import pytest
from playwright.sync_api import ConsoleMessage, Page

from storage.workspace import Workspace
from tests.ui.browsing import until
from ui.server import background

pytestmark = [pytest.mark.browser, pytest.mark.gradio]
TABS = ("Diagnose and repair", "Hard cases", "Label")
READY = "#label-editor [data-id=stage][data-ready=true]:has([data-image])"
"""With an image: an editor without one is ready as well."""
LAYERS = "#label-editor [data-id=layers]"


def draw_stroke(page: Page) -> None:
    """A short stroke in the middle of the image."""
    page.locator(LAYERS).scroll_into_view_if_needed()
    box = page.locator(LAYERS).bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 20, steps=4)
    page.mouse.up()


def test_every_tab_obeys_the_policy_and_an_answer_brings_the_next_image(
    workspace: Workspace, visiting: Callable[..., Page]
) -> None:
    said: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            said.append(message.text)

    with background(workspace) as where:
        for number, scheme in enumerate(("light", "dark"), start=1):
            page = visiting(where.url, "curator", "/gradio", scheme)
            page.on("console", note)
            page.reload()
            for tab in TABS:
                page.get_by_role("tab", name=tab).click()
            page.wait_for_selector(READY)
            shown = page.locator(LAYERS).get_attribute("data-image")
            draw_stroke(page)
            page.locator("#label-editor").get_by_role("button", name="Submit").click()
            until(page, f"before => document.querySelector('{LAYERS}').dataset.image !== before", arg=shown)
            with workspace.catalog(read_only=True) as catalog:
                assert len({label.image_id for label in catalog.labels.by("curator")}) == number
    assert not said, said
