"""The Gradio app behind the server's sessions and roles: what each tab's handlers do, without a browser."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import numpy as np
import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from sqlalchemy import update

from dataengine.errors import AccessDenied
from dataengine.images import decode
from dataengine.masks import unpack_label_map
from dataengine.records import QueueItem, WorkerBeat
from pipelines.services.preflight import Check
from storage import tables
from storage.workspace import Workspace
from tests.ui.conftest import ORIGIN, SIDE, copied, sign_in
from ui.config import ServerConfig
from ui.gradio import app as gradio_app
from ui.gradio.app import TABS, build_app, tabs_of
from ui.gradio.context import GUEST, AppContext, check_lines, person, worker_note
from ui.server import Listening, create_app
from ui.web.gradio_kit import plain
from ui.web.sessions import Person

NAMES = {
    *("diagnose", "repair", "examples", "models", "next_image", "submit_label", "submit_clean", "skip_image"),
    *("save_draft", "hard_categories", "send_to_people", "trainings", "training_checks", "start_training"),
    *("training_status", "cancel_training", "promote", "treatments", "estimate_treatment", "start_treatment"),
    *("treatment_status", "cancel_treatment", "treatment_result"),
}
"""What `gradio_client` may call."""

Call = Callable[..., Any]


def request_of(role: str, name: str = "", session: str = "s1") -> gr.Request:
    """The request of somebody with this role."""
    made = Person(name=name or role, roles=(role,), csrf="", token="")
    scope = {"type": "http", "headers": [], "state": {"person": made}}
    return gr.Request(request=Request(scope), session_hash=session)


@pytest.fixture
def call(workspace: Workspace) -> Iterator[Call]:
    """Calls a handler by its public name as somebody."""
    blocks = build_app(AppContext(workspace=workspace))
    known = {fn.api_name: fn.fn for fn in blocks.fns.values() if fn.api_visibility == "public"}
    assert set(known) == NAMES
    assert blocks._queue.max_size == gradio_app.WAITING and blocks._queue.default_concurrency_limit

    def run(name: str, role: str, *inputs: Any, **who: str) -> Any:
        return known[name](*inputs, request_of(role, **who))

    yield run


def drawn(value: dict[str, Any], class_number: int = 1) -> dict[str, Any]:
    """What the editor sends back after a stroke."""
    label_map = np.array(value["label_map"])
    label_map[5:9, 7:20] = class_number
    return value | {"label_map": label_map}


def test_ten_answers_go_through_the_queue_of_annotate(call: Call, workspace: Workspace) -> None:
    value, task, lead = call("next_image", "annotator")
    assert decode(value["image"]).shape == (SIDE, SIDE, 3) and "waiting" in lead
    assert value["confidence"].max() > 0.3 and value["classes"] and 0 < value["threshold"] < 1
    seen = []
    while task is not None:
        seen.append(task["image"])
        if len(seen) % 3:
            value, task, lead = call("submit_label", "annotator", drawn(value), task)
        else:
            value, task, lead = call("submit_clean", "annotator", task)
    assert len(set(seen)) == len(seen) == 6 and value is None and "Nothing waits" in lead
    with workspace.catalog(read_only=True) as catalog:
        labels = {id: catalog.labels.latest(id, "annotator") for id in seen}
        assert [labels[id].clean for id in seen] == [False, False, True] * 2
        first = labels[seen[0]]
        assert first.detector_id == "d1" and first.source == "person" and first.lead_seconds >= 0
        assert catalog.queue.remaining() == 0
    stored = unpack_label_map(workspace.blobs.get(first.label_map), SIDE, SIDE)
    assert stored[6, 8] == 1 and (stored > 0).sum() == 4 * 13


def test_two_browsers_on_one_task_store_one_answer(call: Call, workspace: Workspace) -> None:
    value, task, _ = call("next_image", "annotator", session="one")
    again, same, _ = call("next_image", "annotator", session="two")
    assert same["lease"] == task["lease"]
    call("submit_label", "annotator", drawn(value), task, session="one")
    with pytest.raises(gr.Error, match=r"lease|already|key"):
        call("submit_label", "annotator", drawn(again, 2), same, session="two")
    with workspace.catalog(read_only=True) as catalog:
        assert len(catalog.labels.history(task["image"])) == 1
    # The same drawing sent twice, as after a lost connection, counts once.
    value, task, _ = call("next_image", "annotator")
    call("submit_label", "annotator", drawn(value), task)
    with workspace.catalog(read_only=True) as catalog:
        assert len(catalog.labels.history(task["image"])) == 1


def test_two_people_get_two_images(call: Call) -> None:
    _, first, _ = call("next_image", "annotator")
    _, second, _ = call("next_image", "curator")
    assert first["image"] != second["image"]


def test_every_stroke_is_kept_and_comes_back(call: Call, workspace: Workspace) -> None:
    value, task, _ = call("next_image", "annotator")
    call("save_draft", "annotator", value, task)
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.drafts.get(task["image"], "annotator") is None  # nothing was drawn
    call("save_draft", "annotator", drawn(value), task)
    again, same, _ = call("next_image", "annotator", session="another browser")
    assert same["image"] == task["image"] and (again["label_map"] > 0).sum() == 4 * 13
    call("submit_label", "annotator", again, same)
    call("save_draft", "annotator", drawn(value), task)  # arrives after the answer
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.drafts.get(task["image"], "annotator") is None


def test_an_answer_that_fits_no_task_is_refused(call: Call, workspace: Workspace) -> None:
    value, task, _ = call("next_image", "annotator")
    answers = {
        "nothing is drawn": (value, task),
        "press Next image first": (drawn(value), None),
        "another image than this task": (value | {"label_map": np.ones((SIDE, SIDE - 1), np.uint8)}, task),
        "shows another image": (None, task),
    }
    for said, answer in answers.items():
        with pytest.raises(gr.Error, match=said):
            call("submit_label", "annotator", *answer)
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.labels.latest(task["image"], "annotator") is None


def test_a_skipped_image_goes_to_somebody_else(call: Call) -> None:
    _, task, _ = call("next_image", "annotator")
    _, other, _ = call("skip_image", "annotator", task)
    assert other["image"] != task["image"]
    _, offered, _ = call("next_image", "curator")
    assert offered["image"] == task["image"]


def test_hard_categories_are_sent_to_people(call: Call, workspace: Workspace) -> None:
    lead, table, chosen, threshold, people = call("hard_categories", "curator")
    assert set(table["category"]) == {"hands", "mugs"} and list(table["images"]) == [4, 4]
    assert chosen["choices"] and 0 < threshold < 1 and "first doctor" in lead
    assert people["choices"] == ["annotator", "curator"]
    said = call("send_to_people", "curator", ["mugs"], 0.0, 2, 100, ["annotator", "curator"])
    with workspace.catalog(read_only=True) as catalog:
        sent = catalog.audit.list(action="queue.send")[0]
        assert f"**{sent.details['images']}**" in said and sent.actor == "curator"
        assert sent.details["people"] == ["annotator", "curator"] and sent.details["opinions"] == 2
    with pytest.raises(gr.Error, match="no category is chosen"):
        call("send_to_people", "curator", [], 0.5, 1, 100, [])
    with pytest.raises(gr.Error, match="2 annotators per image are required"):
        call("send_to_people", "curator", ["mugs"], 0.5, 2, 100, ["annotator"])


def test_names_of_detectors_and_categories_are_shown_as_text(call: Call, workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        catalog.connection.execute(update(tables.detectors).values(name="<b>of [mine](x)</b>"))
        catalog.commit()
    lead = call("hard_categories", "curator")[0]
    assert "<b>" not in lead and "[mine](x)" not in lead and plain("<b>of [mine](x)</b>") in lead


def test_trainings_and_treatments_are_requested_and_followed(call: Call, workspace: Workspace) -> None:
    note, presets, chosen = call("trainings", "engineer", None, None)
    assert "No worker" in note and presets["value"] == "recipe cpu-smoke" and chosen["value"] is None
    assert "worker" in call("training_checks", "engineer", presets["value"])
    with pytest.raises(gr.Error, match="no settings are chosen"):
        call("start_training", "engineer", None)
    with pytest.raises(gr.Error, match="made no detector yet"):
        call("promote", "engineer", [None, "d1"], "")
    nothing = call("training_status", "engineer", None, None)
    assert nothing[0] == "No training yet." and nothing[-1]["active"] is False
    _, methods, generators, _, _ = call("treatments", "engineer", None, None, None, None)
    assert methods["value"] == "recipe cpu-smoke" and generators["value"] in ("base", "treated")
    with pytest.raises(gr.Error, match="no method is chosen"):
        call("start_treatment", "engineer", None, "base", [], "")
    with pytest.raises(gr.Error, match="two prompts or more"):
        call("start_treatment", "engineer", methods["value"], "base", [], "one hand\none hand\n")
    with pytest.raises(gr.Error, match="choose a generator first"):
        call("start_treatment", "engineer", methods["value"], None, [], "")
    lines = call("estimate_treatment", "engineer", methods["value"], "base", ["hands"], "")
    assert "✗" in lines and "memory" in lines  # the furnished workspace has no weights
    with workspace.catalog(read_only=True) as catalog:
        assert not catalog.jobs.list()


REFUSED = (
    ("next_image", "engineer", ()),
    ("submit_label", "engineer", (None, None)),
    ("diagnose", "annotator", (None, None, None)),
    ("repair", "annotator", (None, None, None, "", None)),
    ("hard_categories", "annotator", ()),
    ("send_to_people", "annotator", (["mugs"], 0.5, 1, 1, [])),
    ("start_training", "curator", ("recipe cpu-smoke",)),
    ("promote", "curator", (["d1", None], "")),
    ("start_treatment", "annotator", ("recipe cpu-smoke", "base", [], "")),
    ("treatment_result", "curator", (None,)),
)


def test_a_tab_of_another_role_is_refused_at_its_handlers(call: Call) -> None:
    for name, role, inputs in REFUSED:
        with pytest.raises(gr.Error, match=r"needs the .*role; you have"):
            call(name, role, *inputs)


def test_guests_of_a_space_are_told_apart() -> None:
    guests = [
        person(request_of("annotator", GUEST, session), frozenset({"annotator"}), "x") for session in "ab"
    ]
    assert len(set(guests)) == 2 and all(name.startswith("guest-") for name in guests)
    assert person(request_of("annotator", "ann"), frozenset({"annotator"}), "x") == "ann"
    with pytest.raises(AccessDenied):
        person(request_of("rater", GUEST), frozenset({"annotator"}), "x")


def test_without_a_worker_or_gpu_the_small_recipe_is_offered(workspace: Workspace) -> None:
    assert "No worker" in worker_note(workspace)
    with workspace.catalog() as catalog:
        catalog.workers.beat(WorkerBeat(id="w", host="h", pid=1, devices=("cpu",)))
        catalog.commit()
    assert "no GPU" in worker_note(workspace) and "cpu-smoke" in worker_note(workspace)


@pytest.mark.parametrize("text", ["a_b", "<b>", "[x](javascript:1)", "`c`", "*d*", "# e"])
def test_what_people_wrote_is_shown_as_text(text: str) -> None:
    shown = plain(text)
    assert "<" not in shown and not any(f"{mark}" in shown.replace(f"\\{mark}", "") for mark in "_`*[]#")


@pytest.fixture(scope="module")
def server(templates: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The server with all desks and little room for uploads."""
    for workspace in copied(templates / "furnished", tmp_path_factory.mktemp("tight") / "furnished"):
        app = create_app(workspace, ServerConfig(max_upload_bytes=20_000))
        yield TestClient(app, base_url=ORIGIN, follow_redirects=False)


def upload(client: TestClient, size: int) -> Any:
    return client.post("/gradio/gradio_api/upload", files={"files": ("a.png", b"x" * size)})


def test_files_arrive_up_to_the_limit_and_only_from_people_who_may(server: TestClient) -> None:
    assert upload(server, 10).status_code == 401
    sign_in(server, "rater")
    assert upload(server, 10).status_code == 403
    sign_in(server, "curator")
    assert upload(server, 10_000).status_code == 200
    refused = upload(server, 20_001)
    assert refused.status_code == 413 and "send fewer at once" in refused.json()["error"]
    assert server.post("/gradio/gradio_api/upload", content=iter([b"x"])).status_code == 413
    assert server.post("/admin/gradio_api/upload", files={"files": ("a", b"x")}).status_code in (403, 404)


def test_a_session_that_has_ended_says_that_the_drawing_is_kept(server: TestClient) -> None:
    server.cookies.clear()
    answer = server.post(
        "/gradio/gradio_api/queue/join", json={"data": [], "fn_index": 0, "session_hash": "x"}
    )
    assert answer.status_code == 401
    assert "sign in again" in answer.json()["error"] and "drew" in answer.json()["error"]


def test_an_item_without_a_map_is_offered_without_suggestions(call: Call, workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        image = catalog.images.ids()[-1]
        catalog.queue.add_many([QueueItem(image_id=image, round_id="r9", priority=99.0)])
        catalog.commit()
    value, task, _ = call("next_image", "annotator")
    assert task["image"] == image and value["classes"]


@pytest.mark.parametrize(
    ("role", "titles", "first"),
    [
        ("annotator", ["Label"], "Label"),
        ("engineer", ["Diagnose and repair", "Hard cases", "Retrain", "Treat"], None),
        ("curator", ["Diagnose and repair", "Label", "Hard cases"], None),
    ],
)
def test_people_see_the_tabs_of_their_roles(role: str, titles: list[str], first: str | None) -> None:
    selected, *shown = tabs_of(request_of(role))
    assert [title for (title, _, _), one in zip(TABS, shown, strict=True) if one["visible"]] == titles
    assert selected.get("selected") == first


@pytest.mark.parametrize("rest", ["", "/?token=abc"])
def test_the_printed_address_opens_the_app(rest: str) -> None:
    where = Listening("http://127.0.0.1:7860", f"http://127.0.0.1:7860{rest}").at("/gradio")
    assert where.url == "http://127.0.0.1:7860/gradio" and where.link == where.url + rest.removeprefix("/")


def test_check_lines_say_what_is_wrong() -> None:
    assert check_lines([Check(name="disk", verdict="bad", text="full")]) == "- ✗ **disk**: full"
