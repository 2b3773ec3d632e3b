"""A whole small round on the Gradio app, in a browser and through `gradio_client`: diagnose, label, retrain,
promote, treat, compare. Real models, real worker. `make test-gradio`.
"""

import base64
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from playwright.sync_api import Locator, Page, expect

from dataengine.images import decode, encode_png
from dataengine.masks import PackedMap
from pipelines.demo.first_round import begin_first_round
from pipelines.services import runs
from pipelines.worker.supervisor import supervised_worker
from storage.accounts import create_user
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.ui.browsing import PASSWORD
from ui.server import background

pytestmark = [pytest.mark.gradio, pytest.mark.browser, pytest.mark.timeout(2400)]
PATIENCE = 900.0
"""Seconds that a training or a treatment may take on a busy machine."""
PROMPTS = "\n".join(
    f"an open {colour} hand over a plain red background" for colour in ("tan", "pale", "dark")
)


class Served(NamedTuple):
    url: str
    workspace: Workspace


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A workspace whose first small round waits for labels, a server over it, and a worker."""
    workspace = create_workspace(tmp_path_factory.mktemp("round") / "workspace")
    with workspace.catalog() as catalog:
        create_user(catalog, "boss", PASSWORD, ["admin"], "test")
        for name in ("ann", "ben"):
            create_user(catalog, name, PASSWORD, ["annotator", "curator", "engineer"], "test")
        catalog.commit()
    begin_first_round(workspace)
    with supervised_worker(workspace), background(workspace) as where:
        wait_for(lambda: count_waiting(workspace) >= 12)
        yield Served(where.url, workspace)


def wait_for(done: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "it took too long"
        time.sleep(1)


def count_waiting(workspace: Workspace) -> int:
    with workspace.catalog(read_only=True) as catalog:
        return catalog.queue.remaining()


def labels_by(workspace: Workspace, name: str) -> int:
    with workspace.catalog(read_only=True) as catalog:
        return len({label.image_id for label in catalog.labels.by(name)})


def champion_of(workspace: Workspace) -> str:
    with workspace.catalog(read_only=True) as catalog:
        champion = catalog.detectors.champion()
    assert champion is not None
    return champion.id


def has_ended(workspace: Workspace, kind: str) -> bool:
    job = runs.runs(workspace, kind)[0].job
    assert job.state not in ("failed", "cancelled"), job.error
    return job.state == "succeeded"


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def shown(page: Page, text: str) -> Locator:
    """The first place where that text is visible; Gradio keeps hidden copies, such as of a table's cells."""
    return page.get_by_text(text).locator("visible=true").first


def draw_stroke(page: Page) -> None:
    """A short stroke in the middle of the image."""
    box = page.locator("#label-editor .stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 6):
        page.mouse.move(x + 12 * step, y + 5 * step)
    page.mouse.up()


def test_a_round_in_the_browser(served: Served, visiting: Callable[..., Page]) -> None:
    workspace = served.workspace
    page = visiting(served.url, "ann", "/gradio")
    page.set_default_timeout(1000 * PATIENCE)
    expect.set_options(timeout=1000 * PATIENCE)

    page.get_by_role("button", name="Take examples").click()
    expect(shown(page, "example-4")).to_be_visible()
    page.get_by_role("button", name="Find artifacts").click()
    expect(shown(page, "of 4 files")).to_be_visible()
    page.get_by_role("button", name="Repair what was found").click()
    expect(shown(page, "judges its own repairs")).to_be_visible()
    assert page.get_by_role("link", name=re.compile("report")).count() or page.get_by_text("report").count()

    open_tab(page, "Label")
    for number in range(10):
        page.wait_for_selector(f"text=/{count_waiting(workspace)} waiting/")
        if number % 4 == 3:
            page.get_by_role("button", name="No artifact").click()
        else:
            draw_stroke(page)
            page.locator("#label-editor").get_by_role("button", name="Submit").click()
        wait_for(lambda number=number: labels_by(workspace, "ann") == number + 1)

    open_tab(page, "Hard cases")
    expect(shown(page, "categories are hard")).to_be_visible()

    before = champion_of(workspace)
    open_tab(page, "Retrain")
    page.get_by_role("button", name="Retrain", exact=True).click()
    expect(shown(page, "succeeded")).to_be_visible()
    promote = page.get_by_role("button", name="Promote to champion")
    expect(promote).to_be_enabled()
    page.get_by_label("Reason").fill("the round of the test")
    promote.click()
    expect(shown(page, "is champion now")).to_be_visible()
    assert champion_of(workspace) != before

    open_tab(page, "Treat")
    page.get_by_label("Or your prompts").fill(PROMPTS)
    page.get_by_role("button", name="Estimate").click()
    expect(shown(page, "memory")).to_be_visible()
    page.get_by_role("button", name="Treat", exact=True).click()
    expect(shown(page, "On held-out prompts")).to_be_visible()
    wait_for(lambda: has_ended(workspace, runs.TREATMENT))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the LoRA").click()
    assert download.value.suggested_filename.endswith(".zip")


def client_of(served: Served, name: str) -> Client:
    answer = httpx.post(f"{served.url}/api/login", json={"name": name, "password": PASSWORD})
    cookie = {"Cookie": answer.headers["set-cookie"].split(";")[0]}
    return Client(f"{served.url}/gradio/", headers=cookie, download_files=False, verbose=False)


def test_the_same_without_a_browser(served: Served, tmp_path: Path) -> None:
    workspace, client = served.workspace, client_of(served, "ben")
    with workspace.catalog(read_only=True) as catalog:
        image = next(one for one in catalog.images.find(limit=50) if one.source == "generated")
    (tmp_path / "own.png").write_bytes(encode_png(decode(workspace.blobs.get(image.sha256))))
    found = client.predict([handle_file(tmp_path / "own.png")], None, api_name="/diagnose")
    table = found[-2]
    assert table["data"][0][0] == "own.png" and float(table["data"][0][2]) >= 0
    with pytest.raises(Exception, match="no image was given"):
        client.predict(None, None, api_name="/diagnose")

    value, _ = client.predict(api_name="/next_image")
    label_map = np.zeros((value["height"], value["width"]), np.uint8)
    label_map[10:20, 10:30] = 1
    drawn = value | {"label_map": base64.b64encode(PackedMap.of(label_map).data).decode()}
    client.predict(drawn, api_name="/submit_label")
    client.predict(api_name="/submit_clean")
    assert labels_by(workspace, "ben") == 2

    client.predict("recipe cpu-smoke", api_name="/start_training")
    wait_for(lambda: has_ended(workspace, runs.TRAINING))
    run = runs.runs(workspace, runs.TRAINING)[0].id
    status = client.predict(run, None, api_name="/training_status")
    assert "succeeded" in status[0]
    promoted: Any = client.predict("better for the test", api_name="/promote")
    assert "is champion now" in promoted[0]

    client.predict("recipe cpu-smoke", "tiny-flux", [], PROMPTS, api_name="/start_treatment")
    wait_for(lambda: has_ended(workspace, runs.TREATMENT))
    run = runs.runs(workspace, runs.TREATMENT)[0].id
    result = client.predict(run, api_name="/treatment_result")
    assert "held-out prompts" in result[0]
