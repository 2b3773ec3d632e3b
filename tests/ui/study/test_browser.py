"""A whole study in headless Chromium: three raters with the keyboard alone, checked against hand values."""

import re

import pytest
from playwright.sync_api import Page, expect

from dataengine.records import Study
from pipelines.services.studies.plans import plan_of
from storage.workspace import Workspace
from tests.ui.browsing import PATIENCE_MS

pytestmark = pytest.mark.browser

KEYS = {"left": "ArrowLeft", "tie": "ArrowDown", "right": "ArrowRight"}
SAID = {  # pair: what each rater says on artifacts; on quality
    0: (("after", "after", "after"), ("after", "after", "tie")),
    1: (("after", "after", "before"), ("tie", "tie", "tie")),
    2: (("before", "before", "before"), ("before", "after", "after")),
    3: (("after", "after", "after"), ("after", "after", "after")),
}


def ready(page: Page, view: str) -> None:
    expect(page.locator("#view")).to_have_attribute("data-ready", view, timeout=PATIENCE_MS)


def judge(page: Page, study: Study, rater: str, place: int) -> None:
    """Judge every pair with keys, after a look at what zooming does and a change of mind."""
    bench, seen = page.locator(".bench"), 0
    while True:
        expect(bench).to_have_attribute("data-ready", re.compile("."), timeout=PATIENCE_MS)
        showing = plan_of(study, rater).by_task[bench.get_attribute("data-ready") or ""]
        if seen == 0:
            page.keyboard.press("+")
            page.keyboard.press("Shift+ArrowLeft")
            for side in ("left", "right"):
                expect(page.locator(f"#stage-{side}")).to_have_attribute("data-zoom", "1.50")
            moved = [page.locator(f"#stage-{side}").get_attribute("style") for side in ("left", "right")]
            assert moved[0] == moved[1] and "--x: 6." in (moved[0] or "")
            page.keyboard.press("ArrowDown")
            page.keyboard.press("Backspace")
        sides = {"tie": "tie", showing.left: "left", showing.right: "right"}
        for question in range(2):
            said = SAID[showing.pair][question][place] if showing.pair < 4 else "after"
            page.keyboard.press(KEYS[sides[said]])
        page.keyboard.press("Enter")
        seen += 1
        if seen == 5:
            break
        expect(bench).not_to_have_attribute("data-ready", showing.task, timeout=PATIENCE_MS)
    expect(page.get_by_text("All done. Thank you.")).to_be_visible(timeout=PATIENCE_MS)


def test_a_study_with_three_raters(visit, live: tuple[str, Workspace]) -> None:  # type: ignore[no-untyped-def]
    workspace = live[1]
    maker = visit("engineer", "/study")
    ready(maker, "list")
    maker.get_by_role("link", name="New study").click()
    ready(maker, "make")
    expect(maker.locator("#found")).to_have_text("They share 4 prompts and seeds.")
    maker.get_by_label("Study name").fill("Hands and mugs")
    maker.get_by_label("Raters per pair").fill("3")
    maker.get_by_label("Attention checks").fill("1")
    maker.get_by_role("button", name="Open the study").click()
    ready(maker, "results")
    with workspace.catalog(read_only=True) as catalog:
        study = catalog.studies.list()[-1]
    asked: list[str] = []
    for place, name in enumerate(("rater", "engineer", "admin")):
        page = visit(name, "/study", "dark" if place else "light")
        page.on("request", lambda request: asked.append(request.url))
        ready(page, "list")
        page.locator(".waiting", has_text="Hands and mugs").get_by_role("link").click()
        ready(page, "judge")
        told = page.content()
        assert not [id for pair in study.pairs for id in pair if id in told] and "flux" not in told
        judge(page, study, name, place)
        page.close()
    secrets = [*(id for pair in study.pairs for id in pair), "base", "treated", "before", "after"]
    pictures = [one for one in asked if "/pictures/" in one]
    assert len(set(pictures)) == 30 and not [s for s in secrets for one in asked if s in one]
    maker.reload()
    ready(maker, "results")
    artifacts = maker.locator("[data-question=artifacts]")
    expect(artifacts.locator(".big")).to_contain_text("75 % of decided pairs")
    expect(artifacts.locator("[data-figure=mos]")).to_have_text("+0.33")  # (1 + 1/3 − 1 + 1) / 4
    expect(artifacts.locator("[data-figure=margin]")).to_have_text("50 % / 25 %")
    quality = maker.locator("[data-question=quality]")
    expect(quality.locator("[data-figure=mos]")).to_have_text("+0.50")  # (2/3 + 0 + 1/3 + 1) / 4
    expect(maker.locator("#minimum")).to_have_text("+0.17")  # (2/3 + 0 − 1 + 1) / 4
    with maker.expect_download() as download:
        maker.get_by_role("link", name="Votes CSV").click()
    assert len(download.value.path().read_text().splitlines()) == 1 + 3 * 5 * 2
    maker.on("dialog", lambda dialog: dialog.accept())
    maker.locator("#close").click()
    expect(maker.locator(".state.closed")).to_be_visible(timeout=PATIENCE_MS)
