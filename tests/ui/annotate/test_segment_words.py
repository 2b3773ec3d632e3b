"""A word as prompt on the annotation page: the field appears only where the registered model takes one."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Route, expect

from dataengine.masks import pack_label_map
from dataengine.records import Endpoint
from tests.ui.annotate.test_browser import SIDE, Desk, Server, desk, seen, server, shown

__all__ = ["desk", "server"]

pytestmark = pytest.mark.browser


def test_a_word_marks_what_the_model_finds(desk: Desk, server: Server, tmp_path: Path) -> None:
    for kind in ("sam2", "sam3_video"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": kind}))
        with server.workspace.catalog() as catalog:
            catalog.endpoints.add(
                Endpoint(id=kind, kind="segmenter", name=kind, location=str(tmp_path / kind))
            )
            catalog.commit()
        page = desk()
        shown(page)
        expect(page.locator("#assist-word")).to_be_hidden()
        page.keyboard.press("g")
        expect(page.locator("#assist-word")).to_be_visible(visible=kind == "sam3_video")
    found = np.zeros((SIDE, SIDE), np.uint8)
    found[10:20, 30:50] = 1
    asked: list[dict[str, object]] = []

    def answer(route: Route) -> None:
        asked.append(json.loads(route.request.post_data or ""))
        mask = found if asked[-1]["word"] == "hand" else np.zeros_like(found)
        text = base64.b64encode(pack_label_map(mask)).decode()
        route.fulfill(json={"label_map": text, "score": 0.9})

    page.route("**/api/annotate/assist", answer)
    field = page.get_by_label("Word for what to segment")
    field.fill("mug")
    field.press("Enter")
    expect(page.locator("#message")).to_contain_text("No “mug” was found")
    field.fill("hand")
    page.get_by_role("button", name="Find").click()
    expect(page.locator("#undo")).to_be_enabled()
    assert np.array_equal(seen(page) > 0, found > 0)
    assert [one["word"] for one in asked] == ["mug", "hand"] and "points" not in asked[0]
    page.keyboard.press("b")
    expect(page.locator("#assist-word")).to_be_hidden()
    with server.workspace.catalog() as catalog:
        for kind in ("sam2", "sam3_video"):
            catalog.endpoints.remove(kind)
        catalog.commit()
