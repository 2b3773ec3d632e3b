"""From an empty workspace to maps, work for people and a download, in Chromium, without a command."""

import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dataengine.clinic.world import stream
from dataengine.images import encode_png
from dataengine.records import Endpoint
from storage.accounts import create_user
from storage.workspace import Workspace
from tests.ui.browsing import PATIENCE_MS
from tests.ui.conftest import PASSWORD, png
from tests.ui.hands import working
from ui.config import ServerConfig
from ui.server import background

pytestmark = pytest.mark.browser
LOADING_MS = 240_000
"""Until a busy machine has loaded torch."""
READY = "#view[data-ready]"
IMAGES = "input[data-part=images]"


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """These tests wait for work, so that the usual five seconds are few on a busy machine."""
    expect.set_options(timeout=PATIENCE_MS)
    yield
    expect.set_options(timeout=5_000)


@pytest.fixture
def empty(bare: Workspace) -> Iterator[tuple[str, Workspace]]:
    """A server over a workspace with people and nothing else."""
    with bare.catalog() as catalog:
        for role in ("curator", "engineer", "annotator"):
            create_user(catalog, role, PASSWORD, [role], "test")
        catalog.commit()
    with background(bare, ServerConfig(port=0, desks=False)) as where:
        yield where.url, bare


def drawings(folder: Path, count: int) -> list[str]:
    """Files of flawed drawings."""
    folder.mkdir(exist_ok=True)
    found = stream("validation", flawed=1.0)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(encode_png(found[number].image))
    return sorted(map(str, folder.iterdir()))


def dialog_done(page: Page) -> None:
    line = page.locator("dialog.work .job-line")
    expect(line).to_have_attribute("data-state", re.compile("succeeded|failed"), timeout=LOADING_MS)
    assert line.get_attribute("data-state") == "succeeded", line.inner_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_an_empty_workspace_to_maps_people_and_a_download(
    visiting: Callable[..., Page], empty: tuple[str, Workspace], tmp_path: Path
) -> None:
    """desks 1.1, 1.2, 1.3, 1.4: the first hour of a curator whose workspace has uploaded pictures alone."""
    url, workspace = empty
    page = visiting(url, "curator", "/")
    page.locator(".start a").first.click()
    page.wait_for_selector(READY)
    files = drawings(tmp_path / "drawings", 4)
    (tmp_path / "notes.pdf").write_bytes(b"%PDF-1.7")
    page.set_input_files(IMAGES, [*files, str(tmp_path / "notes.pdf")])
    expect(page.locator(".summary")).to_contain_text("5 in images")
    page.get_by_role("button", name="Upload and import").click()
    expect(page.locator(".outcome .counts")).to_have_text("4 added · 0 known already · 1 refused")
    expect(page.locator(".refusals td").first).to_have_text("notes.pdf")
    with working(workspace):
        page.locator(".outcome [data-work=diagnose]").click()
        expect(page.locator("dialog.work select[name=detector] option")).to_have_count(1)
        page.locator("dialog.work form .button").click()
        dialog_done(page)
        expect(page.locator("dialog.work")).to_contain_text("4 images predicted by first detector")
        page.get_by_role("link", name="See the maps").click()
        expect(page.locator(".grid .tile")).to_have_count(4)
        page.locator(".workbar [data-work=categorize]").click()
        page.locator("dialog.work form .button").click()
        dialog_done(page)
        expect(page.locator("dialog.work")).to_contain_text("4 of 4 images without a category got one")
        page.get_by_role("button", name="Close").click()
        page.locator(".workbar [data-work=send]").click()
        page.locator("dialog.work [name=budget]").fill("2")
        page.locator("dialog.work form .button").click()
        dialog_done(page)
        expect(page.locator("dialog.work")).to_contain_text(re.compile("[12] images? sent to annotators"))
        page.get_by_role("button", name="Close").click()
        page.locator(".workbar [data-work=export]").click()
        page.locator("dialog.work select[name=format]").select_option("masks")
        page.locator("dialog.work form .button").click()
        dialog_done(page)
        with page.expect_download() as download:
            page.get_by_role("link", name=re.compile("^Download")).click()
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert sum(name.endswith(".png") for name in names) == 4 and "labels.csv" in names
    annotator = visiting(url, "annotator", "/")
    expect(annotator.locator(".tasks a")).to_have_text(re.compile("[12] images? to label"))
    expect(annotator.locator("a[href='/import']")).to_have_count(0)


def test_a_closed_tab_leaves_what_arrived_and_goes_on(
    visiting: Callable[..., Page], empty: tuple[str, Workspace], tmp_path: Path
) -> None:
    url, workspace = empty
    files = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        path.write_bytes(png(number))
        files.append(str(path))
    page = visiting(url, "curator", "/import")
    page.wait_for_selector(READY)
    page.route(re.compile("name=5.png"), lambda route: route.abort())  # the page tries again and again
    page.set_input_files(IMAGES, files)
    page.get_by_role("button", name="Upload and import").click()
    expect(page.locator(".summary")).to_contain_text("5 of 6 files")
    page.close(run_before_unload=False)
    again = visiting(url, "curator", "/import")
    note = again.locator(".unfinished")
    expect(note).to_contain_text("5 files")
    note.get_by_role("button", name="Continue").click()
    sent: list[str] = []
    again.on("request", lambda request: sent.append(request.url) if "/piece" in request.url else None)
    again.set_input_files(IMAGES, files)
    again.get_by_role("button", name="Upload and import").click()
    expect(again.locator(".outcome .counts")).to_contain_text("added")
    assert len(sent) == 1 and "name=5.png" in sent[0]
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.images.count() == 6
    again.reload()
    again.wait_for_selector(READY)
    expect(again.locator(".unfinished")).to_have_count(0)


def test_five_hundred_files_at_once(
    visiting: Callable[..., Page], empty: tuple[str, Workspace], tmp_path: Path
) -> None:
    """Most of them the same small picture under other names: each file is sent, each image kept once."""
    url, _ = empty
    (tmp_path / "many").mkdir()
    for number in range(500):
        (tmp_path / "many" / f"{number:03d}.png").write_bytes(png(number % 5))
    page = visiting(url, "curator", "/import")
    page.wait_for_selector(READY)
    page.set_input_files(IMAGES, sorted(map(str, (tmp_path / "many").iterdir())))
    page.get_by_role("button", name="Upload and import").click()
    counts = page.locator(".outcome .counts")
    expect(counts).to_have_text(re.compile("5 added · 495 known already .* 0 refused"), timeout=LOADING_MS)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_engineer_registers_models_in_the_browser(
    visiting: Callable[..., Page], empty: tuple[str, Workspace]
) -> None:
    """desks 1.8 and 1.9."""
    url, workspace = empty
    with workspace.catalog() as catalog:
        catalog.endpoints.add(Endpoint(id="e", kind="detector", name="gone", location="/nowhere/detector"))
        catalog.commit()
    page = visiting(url, "engineer", "/train")
    page.goto(f"{url}/treat?new=1")
    expect(page.locator(".note.bad")).to_contain_text("choose a generator first")
    expect(page.get_by_role("button", name="Start treatment")).to_be_disabled()
    page.goto(f"{url}/train")
    with working(workspace):
        page.get_by_role("button", name="Register a detector").click()
        form = page.locator("dialog.work form")
        expect(form.locator("option").first).to_have_text("gone (/nowhere/detector)")
        form.get_by_role("button", name="Register").click()
        expect(page.locator("dialog.work .job-line")).to_have_attribute(
            "data-state", "failed", timeout=PATIENCE_MS
        )
        expect(page.locator("dialog.work")).to_contain_text("there is no detector '/nowhere/detector'")
        form.locator("select").select_option("clinic")
        form.get_by_role("button", name="Register").click()
        dialog_done(page)
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("section.champion")).to_contain_text("first detector")
        page.goto(f"{url}/treat")
        page.get_by_role("button", name="Register a generator").click()
        page.locator("dialog.work select").select_option("clinic-flux")
        page.locator("dialog.work form .button").click()
        dialog_done(page)
    with workspace.catalog(read_only=True) as catalog:
        assert [one.name for one in catalog.generators.offered()] == ["clinic-flux"]
        assert catalog.detectors.champion() is not None
    assert "clinic detectors --add" not in page.content()
