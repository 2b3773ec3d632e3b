"""The choice of a training's start on the page, in Chromium."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from dataengine.diagnosis.config import NVIDIA_LICENCE
from dataengine.records import Endpoint
from storage.workspace import Workspace
from ui.config import ServerConfig
from ui.server import background

pytestmark = pytest.mark.browser


def test_every_start_says_what_it_is_and_what_its_licence_forbids(
    workspace: Workspace, visiting: Callable[..., Page]
) -> None:
    with workspace.catalog() as catalog:
        first = catalog.detectors.get("d1")
        catalog.detectors.add(replace(first, id="d2", name="mit", role="candidate", licence=NVIDIA_LICENCE))
        catalog.endpoints.add(Endpoint(id="e", kind="encoder", name="our encoder", location="/weights/ours"))
        catalog.commit()
    with background(workspace, ServerConfig(port=0, desks=False)) as where:
        page = visiting(where.url, "engineer", "/train")
        expect(page.locator("tr", has_text="mit").locator(".limited")).to_have_text("no commercial use")
        page.goto(f"{where.url}/train?new=1&preset=recipe+paper")
        start, recipe = page.locator('[data-path="start"]'), page.locator(".setting.choice").first
        expect(recipe.locator("small")).to_contain_text("DiffDoctor at its own scale")
        labels = start.locator("optgroup").evaluate_all("all => all.map((one) => one.label)")
        assert labels == ["registered detectors", "pre-trained encoders", "without weights", "elsewhere"]
        expect(start.locator("select")).to_have_value("")
        expect(start.locator(".limited")).to_be_hidden()
        start.locator("select").select_option("nvidia/mit-b5")
        expect(start.locator(".limited")).to_have_text("no commercial use")
        expect(page.locator(".checks")).to_contain_text("It forbids commercial use.")
        start.locator("select").select_option("random")
        expect(start.locator(".limited")).to_be_hidden()
        expect(start.locator("small")).to_contain_text("only with some thousands of them")
        expect(start.locator("input")).to_be_hidden()
        start.locator("select").select_option("other…")
        expect(page.locator(".note.bad").first).to_contain_text("start is empty")
        start.locator("input").fill("/etc/other")
        start.locator("input").blur()
        expect(page.locator(".note.bad").first).to_contain_text(
            "start is '/etc/other', which is not registered"
        )
        recipe.locator("select").select_option("recipe photo")
        page.wait_for_url("**preset=recipe+photo*")
        expect(page.locator('[data-path="start"] select')).to_have_value("imagenet")
        expect(page.locator('[data-path="start"] option[value="/weights/ours"]')).to_have_text("our encoder")
