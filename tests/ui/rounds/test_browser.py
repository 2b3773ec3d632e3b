"""The form of a new round in a browser: what it offers depends on what an admin registered."""

import pytest
from playwright.sync_api import Route, expect

from dataengine.records import Endpoint
from pipelines.services.round_options import yes_no_questions
from tests.ui.browsing import Live, Visit

pytestmark = pytest.mark.browser


def test_a_vqa_model_is_chosen_with_its_question(visit: Visit, live: Live) -> None:
    page = visit("engineer", "/rounds")
    page.locator("#new").click()
    page.get_by_text("Sampling and additional detectors").click()
    assert "ask an admin to register one" in page.locator("#start").inner_text()
    with live[1].catalog() as catalog:
        catalog.endpoints.add(Endpoint(id="seer", kind="vqa", name="the seer", location="owner/seer"))
        catalog.commit()
    page.reload()
    page.locator("#new").click()
    page.get_by_text("Sampling and additional detectors").click()
    form, posted = page.locator("#start"), []

    def refuse(route: Route) -> None:
        posted.append(route.request.post_data_json)
        route.fulfill(status=422, json={"error": "not today"})

    page.route("**/api/rounds/round", refuse)
    form.locator("[name=vqa]").select_option(label="the seer")
    form.locator("[name=question]").select_option("16")
    assert form.locator(".asking p").inner_text() == dict(yes_no_questions())[16]
    form.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("not today")).to_be_visible()
    assert [(one["vqa"], one["question"]) for one in posted] == [("owner/seer", 16)]
