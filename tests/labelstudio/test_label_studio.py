"""Push, pull, webhook, ML backend and a person's brush against a real Label Studio server."""

import base64
import contextlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Locator, Page, TimeoutError

from dataengine.errors import ConfigRefused, InputRefused, ServiceAbsent
from dataengine.masks import unpack_label_map
from dataengine.records import DetectorVersion, Label, Prediction
from pipelines.exchange.label_studio.brush_rle import decode_mask
from pipelines.exchange.label_studio.pull import annotation_reference, pull
from pipelines.exchange.label_studio.push import push, register_hooks
from pipelines.exchange.label_studio.server import Server, brush_labels
from pipelines.exchange.label_studio.tasks import brush_results
from pipelines.services.admin.classes import change_class, find_class
from storage.workspace import Workspace
from tests.labelstudio.server import EMAIL, PASSWORD, LabelStudioServer
from tests.services import chromium_path
from tests.ui.conftest import SIDE, blob

pytestmark = [pytest.mark.labelstudio, pytest.mark.timeout(1800)]
AUTHOR = f"label-studio:{EMAIL}"
CLASSES = ("shape distortion", "unreasonable content", "watermark")


def square() -> np.ndarray:
    label_map = np.zeros((SIDE, SIDE), dtype=np.uint8)
    label_map[5:20, 10:40] = 1
    label_map[8:12, 15:20] = 0
    label_map[30:40, 30:40] = 3
    return label_map


def tasks_of(server: Server, project: int) -> dict[str, int]:
    return {task["data"]["clinic_id"]: task["id"] for task in server.tasks(project)}


def label_of(workspace: Workspace, image_id: str) -> Label:
    with workspace.catalog(read_only=True) as catalog:
        label = catalog.labels.latest(image_id, AUTHOR)
    assert label is not None
    return label


def drawn(workspace: Workspace, label: Label) -> np.ndarray:
    assert label.label_map is not None
    return unpack_label_map(workspace.blobs.get(label.label_map), SIDE, SIDE)


def test_push_twice_changes_nothing_and_a_new_champion_updates(
    workspace: Workspace, server: Server, title: str
) -> None:
    first = push(workspace, server, title, round_id="r1")
    assert (first.tasks, first.predictions, first.known) == (6, 6, 0)
    project = server.project(title)
    assert project is not None and project.model_version == first.model_version == "first doctor (d1)"
    said = server.get("tasks", project=project.id, fields="all", page_size=50)["tasks"]
    with workspace.catalog(read_only=True) as catalog:
        images = {image.id: image for image in catalog.images.find()}
        by_seed = sorted(images.values(), key=lambda image: (image.seed, image.generator_id))
    for task in said:
        image = images[task["data"]["clinic_id"]]
        expected = np.rint(blob(by_seed.index(image)) * 255) >= 128
        regions = task["predictions"][0]["result"]
        assert bool(regions) == expected.any()
        if regions:
            assert np.array_equal(decode_mask(regions[0]["value"]["rle"], SIDE, SIDE), expected)
        pixels = server._http().request(task["data"]["image"].lstrip("/"), method="GET")
        assert pixels.content == workspace.blobs.get(image.sha256)
    again = push(workspace, server, title, round_id="r1")
    assert (again.tasks, again.predictions, again.known) == (0, 0, 6)

    with workspace.catalog() as catalog:
        catalog.detectors.add(DetectorVersion(id="d2", name="second doctor", checkpoint="1" * 64))
        catalog.detectors.promote("d2", "test", "better")
        catalog.predictions.add_many(
            Prediction(
                image_id=one.image_id, detector_id="d2", max=one.max, mean=one.mean, uncertainty=0.5,
                map_ref=one.map_ref,
            )
            for one in catalog.predictions.of("d1")
        )  # fmt: skip
        catalog.commit()
    changed = push(workspace, server, str(project.id), round_id="r1")
    assert (changed.tasks, changed.predictions) == (0, 6)
    project = server.project(title)
    assert project is not None and project.model_version == "second doctor (d2)"
    assert push(workspace, server, title, round_id="r1").predictions == 0


def test_a_champion_that_has_not_looked_yet(workspace: Workspace, server: Server, title: str) -> None:
    """Tasks without predictions: there is no model version that the project could take."""
    with workspace.catalog() as catalog:
        catalog.detectors.add(DetectorVersion(id="d2", name="second doctor", checkpoint="1" * 64))
        catalog.detectors.promote("d2", "test", "better")
        catalog.commit()
    for known in (0, 6):
        done = push(workspace, server, title, round_id="r1")
        assert (done.tasks, done.predictions, done.known) == (6 - known, 0, known)
    project = server.project(title)
    assert project is not None and not project.model_version


def test_pull_follows_updates_and_deletions(workspace: Workspace, server: Server, title: str) -> None:
    pushed = push(workspace, server, title, round_id="r1")
    tasks = tasks_of(server, pushed.project)
    first, second, third, fourth = sorted(tasks)[:4]
    create = server.client.annotations.create
    one = create(id=tasks[first], result=brush_results(square(), CLASSES), lead_time=12.5)
    create(id=tasks[second], result=[], lead_time=2.0)
    create(id=tasks[third], result=[], was_cancelled=True)
    wrong = brush_results(square()[:50], CLASSES)
    create(id=tasks[fourth], result=wrong)
    result = pull(workspace, server, title)
    assert (result.annotations, result.labels, result.withdrawn) == (3, 2, 0)
    assert len(result.refused) == 1 and "was drawn on (50, 64)" in result.refused[0].reason
    label = label_of(workspace, first)
    assert np.array_equal(drawn(workspace, label), square())
    assert (label.lead_seconds, label.source, label.revision, label.round_id) == (12.5, "person", 1, "r1")
    said = annotation_reference(label)
    assert (said["annotation"], said["task"], said["alpha_threshold"]) == (str(one.id), tasks[first], 128)
    assert label_of(workspace, second).clean
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.queue.done("r1") == 2
    assert pull(workspace, server, title).labels == 0

    changed = np.where(square() == 3, 0, square()).astype(np.uint8)
    server.client.annotations.update(id=one.id, result=brush_results(changed, CLASSES))
    assert pull(workspace, server, title).labels == 1
    label = label_of(workspace, first)
    assert label.revision == 2 and np.array_equal(drawn(workspace, label), changed)

    server.client.annotations.delete(id=one.id)
    assert pull(workspace, server, title).withdrawn == 1
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.reviews.verdicts([first]) == {(first, AUTHOR, 2): "rejected"}
    repeated = pull(workspace, server, title)
    assert (repeated.labels, repeated.withdrawn, repeated.tasks_gone) == (0, 0, 0)

    server.client.tasks.delete(id=str(tasks[second]))
    gone = pull(workspace, server, title)
    assert (gone.withdrawn, gone.tasks_gone) == (0, 1) and label_of(workspace, second).clean
    # That image is answered; a task whose image still waits is created again.
    server.client.tasks.delete(id=str(tasks[third]))
    assert push(workspace, server, title, round_id="r1").tasks == 1


def test_a_retired_class_is_offered_no_more_and_stays_readable(
    workspace: Workspace, server: Server, title: str
) -> None:
    pushed = push(workspace, server, title, round_id="r1")
    first = min(tasks_of(server, pushed.project))

    def offered() -> set[str]:
        push(workspace, server, title, round_id="r1")
        return brush_labels(server.project(title))

    for value in (2, 3):
        seen = find_class(workspace, value)
        change_class(workspace, seen, replace(seen, retired=True), "admin")
        if value == 2:
            assert offered() == {CLASSES[0], CLASSES[2]}
            task = tasks_of(server, pushed.project)[first]
            server.client.annotations.create(id=task, result=brush_results(square(), CLASSES))
    assert offered() == {CLASSES[0], CLASSES[2]}, "an annotation uses it, and the server keeps its labels"
    assert pull(workspace, server, title).labels == 1
    assert np.array_equal(drawn(workspace, label_of(workspace, first)), square())
    new = push(workspace, server, f"{title} new", limit=2)
    assert new.tasks == 2 and brush_labels(server.project(f"{title} new")) == {CLASSES[0]}


def test_personal_and_legacy_tokens(
    label_studio: LabelStudioServer, workspace: Workspace, title: str
) -> None:
    legacy = Server.connect(label_studio.url, label_studio.token)
    legacy.post("jwt/settings", json={"api_tokens_enabled": True, "legacy_api_tokens_enabled": True})
    personal = legacy.post("token")["token"]
    assert len(personal.split(".")) == 3
    server = Server.connect(label_studio.url, personal)
    assert push(workspace, server, title, round_id="r1", limit=2).tasks == 2
    assert pull(workspace, legacy, title).annotations == 0


def test_wrong_address_token_version_and_project(
    label_studio: LabelStudioServer, workspace: Workspace, server: Server, ours: str
) -> None:
    for url, kind, says in (
        ("ftp://x", ConfigRefused, "not a URL"),
        ("http://127.0.0.1:9", ServiceAbsent, "no Label Studio answers"),
        (ours, InputRefused, "token|such page|not Label Studio|not a supported Label Studio"),
    ):
        with pytest.raises(kind, match=says):
            Server.connect(url, label_studio.token)
    with pytest.raises(InputRefused, match="refused the token"):
        Server.connect(label_studio.url, "0" * 40)
    with pytest.raises(InputRefused, match=r"1\.20 or newer"):
        server._check_version({"release": "1.9.2"})
    cats = f"about cats {uuid.uuid4().hex[:8]}"
    other = '<View><Image name="image" value="$image"/><BrushLabels name="artifact" toName="image">'
    other += '<Label value="cat"/></BrushLabels></View>'
    project = server.client.projects.create(title=cats, label_config=other)
    with pytest.raises(InputRefused, match="other labels"):
        push(workspace, server, cats, round_id="r1")
    assert not list(server.tasks(project.id))
    with pytest.raises(InputRefused, match="has no project"):
        pull(workspace, server, "never made")
    server.client.projects.create(title=cats, label_config=other)
    with pytest.raises(InputRefused, match="2 projects"):
        push(workspace, server, cats, round_id="r1")


def test_the_ml_backend_answers_label_studio(
    workspace: Workspace, server: Server, title: str, ours: str
) -> None:
    pushed = push(workspace, server, title, round_id="r1", hooks=ours)
    register_hooks(workspace, server, pushed.project, ours)
    backends = server.get("ml/", project=pushed.project)
    assert len(backends) == 1 and backends[0]["state"] == "CO"
    assert len(server.get("webhooks/", project=pushed.project)) == 1
    said = server.get("tasks", project=pushed.project, fields="all")["tasks"]
    task = next(one for one in said if one["predictions"][0]["result"])
    server.client.predictions.delete(id=task["predictions"][0]["id"])
    chosen = {"selectedItems": {"all": False, "included": [task["id"]]}, "project": str(pushed.project)}
    action = {"id": "retrieve_tasks_predictions", "project": pushed.project}
    server.post("dm/actions", params=action, json=chosen)
    (answer,) = server.get(f"tasks/{task['id']}")["predictions"]
    assert answer["model_version"] == pushed.model_version
    assert answer["result"][0]["value"] == task["predictions"][0]["result"][0]["value"]


@pytest.fixture
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        chromium = play.chromium.launch(executable_path=chromium_path(), args=flags)
        yield chromium
        chromium.close()


def stroke(page: Page, canvas: Locator) -> None:
    """Choose the third label by its key, and draw a line with the brush."""
    page.keyboard.press("3")
    page.wait_for_timeout(500)
    box = canvas.bounding_box()
    assert box is not None
    left, top, side = box["x"], box["y"], min(box["width"], box["height"])
    page.mouse.move(left + side * 0.3, top + side * 0.3)
    page.mouse.down()
    for step in range(1, 13):
        page.mouse.move(left + side * (0.3 + 0.025 * step), top + side * (0.3 + 0.015 * step))
        page.wait_for_timeout(30)
    page.mouse.up()


@pytest.mark.browser
def test_a_persons_brush_arrives_by_webhook(
    workspace: Workspace, label_studio: LabelStudioServer, server: Server, title: str, ours: str,
    browser, tmp_path: Path,
) -> None:  # type: ignore[no-untyped-def]  # fmt: skip
    pushed = push(workspace, server, title, round_id="r1", limit=1, pixels="signed", prefix=ours, hooks=ours)
    (image_id, task), *_ = tasks_of(server, pushed.project).items()
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(f"{label_studio.url}/user/login/")
    page.fill("input[name=email]", EMAIL)
    page.fill("input[name=password]", PASSWORD)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "login" not in url, wait_until="commit")
    page.goto(f"{label_studio.url}/projects/{pushed.project}/data?task={task}")
    page.set_default_timeout(60_000)
    canvas = page.locator(".konvajs-content").first
    canvas.wait_for()
    found = page.get_by_text("watermark").nth(1)  # the region in the list
    for _ in range(5):  # a slow page shows its canvas before it takes keys and strokes
        stroke(page, canvas)
        with contextlib.suppress(TimeoutError):
            found.wait_for(timeout=10_000)
            break
    else:
        pytest.fail("Label Studio's page took no stroke")
    page.locator("button", has_text="Submit").first.click()
    deadline = time.monotonic() + 120
    jobs: list[object] = []
    while not jobs and time.monotonic() < deadline:
        time.sleep(0.3)
        with workspace.catalog(read_only=True) as catalog:
            jobs = list(catalog.jobs.list(kind="pull"))
    assert len(jobs) == 1, "Label Studio's webhook did not arrive"
    result = pull(workspace, server, title)
    assert (result.labels, result.refused) == (1, ())
    label_map = drawn(workspace, label_of(workspace, image_id))
    assert set(np.unique(label_map)) == {0, 3} and 20 < (label_map > 0).sum() < SIDE * SIDE / 2


def test_restarted_in_between_and_down(
    workspace: Workspace, label_studio: LabelStudioServer, server: Server, title: str
) -> None:
    pushed = push(workspace, server, title, round_id="r1", limit=2)
    first = min(tasks_of(server, pushed.project))
    server.client.annotations.create(id=tasks_of(server, pushed.project)[first], result=[])
    label_studio.stop()
    for action in (push, pull):
        with pytest.raises(ServiceAbsent, match="no Label Studio answers"):
            action(workspace, server, title)  # type: ignore[operator]
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.labels.latest(first) is None
    label_studio.start()
    assert pull(workspace, server, title).labels == 1
    done = push(workspace, server, title, round_id="r1", limit=2)
    assert (done.known, done.tasks) == (1, 1), "the answered one waits no longer, the next one does"


def test_the_secret_reaches_no_stranger(workspace: Workspace, ours: str) -> None:
    wrong = base64.b64encode(b"clinic:wrong").decode()
    answer = httpx.get(f"{ours}/label-studio/health", headers={"Authorization": f"Basic {wrong}"})
    assert answer.status_code == 403
