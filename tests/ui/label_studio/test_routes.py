"""What Label Studio may ask of us: only with the secret, only about our images, bounded, answered at once."""

from collections.abc import Callable

import numpy as np
import pytest
from fastapi.testclient import TestClient

from dataengine.records import Endpoint, Round, now
from pipelines.exchange.label_studio.brush_rle import decode_mask
from pipelines.exchange.label_studio.signing import signed_path, signing_secret
from pipelines.services.exchange.label_studio import champion_version
from storage import tables
from storage.workspace import Workspace
from tests.ui.conftest import SIDE, blob

Client = Callable[..., TestClient]


@pytest.fixture
def label_studio(client_of: Client, workspace: Workspace) -> TestClient:
    client = client_of()
    client.auth = ("clinic", signing_secret(workspace))
    return client


def tasks(workspace: Workspace) -> list[dict[str, object]]:
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find()
    return [{"id": n, "data": {"clinic_id": i.id, "image": "http://x/y"}} for n, i in enumerate(images)]


@pytest.mark.parametrize(("method", "path"), [("GET", "health"), ("POST", "setup"), ("POST", "predict")])
def test_nothing_without_the_secret(client_of: Client, method: str, path: str) -> None:
    client = client_of()
    assert client.request(method, f"/label-studio/{path}", json={"tasks": []}).status_code == 403
    for headers in (
        {"X-Clinic-Secret": "wrong"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic Y2xpbmljOg=="},
    ):
        answer = client.request(method, f"/label-studio/{path}", json={"tasks": []}, headers=headers)
        assert answer.status_code == 403 and "secret" in answer.json()["error"]


def test_guessing_is_slowed(client_of: Client, workspace: Workspace) -> None:
    client = client_of()
    for _ in range(30):
        client.get("/label-studio/health", headers={"X-Clinic-Secret": "guess"})
    answer = client.get("/label-studio/health", headers={"X-Clinic-Secret": signing_secret(workspace)})
    assert answer.status_code == 403 and "wait" in answer.json()["error"]


def test_the_ml_backends_protocol(label_studio: TestClient, workspace: Workspace) -> None:
    assert label_studio.get("/label-studio/health").json()["status"] == "UP"
    version = label_studio.post("/label-studio/setup", json={"project": "1.2", "schema": "<View/>"}).json()
    assert version == {"model_version": champion_version(workspace)} and "d1" in version["model_version"]
    asked = [*tasks(workspace), {"id": 99, "data": {"clinic_id": "nobody's"}}, {"id": 100, "data": None}]
    said = label_studio.post("/label-studio/predict", json={"tasks": asked, "project": "1.2"}).json()
    assert said["model_version"] == version["model_version"]
    assert len(said["results"]) == len(asked) == 10
    assert said["results"][-1]["result"] == said["results"][-2]["result"] == []
    with workspace.catalog(read_only=True) as catalog:
        by_seed = sorted(catalog.images.find(), key=lambda image: (image.seed, image.generator_id))
        scores = {one.image_id: one.max for one in catalog.predictions.of("d1")}
    ids = [task["data"]["clinic_id"] for task in asked[:-2]]  # type: ignore[index]
    for number, image in enumerate(by_seed):
        answer = said["results"][ids.index(image.id)]
        assert answer["score"] == pytest.approx(scores[image.id], abs=1e-5)
        expected = np.rint(blob(number) * 255) >= 128
        regions = answer["result"]
        assert len(regions) == int(expected.any())
        if regions:
            assert np.array_equal(decode_mask(regions[0]["value"]["rle"], SIDE, SIDE), expected)


def test_requests_are_bounded(label_studio: TestClient) -> None:
    many = [{"id": n, "data": {}} for n in range(65)]
    assert label_studio.post("/label-studio/predict", json={"tasks": many}).status_code == 422
    assert label_studio.post("/label-studio/predict", json={"tasks": "all"}).status_code == 422
    assert label_studio.post("/label-studio/webhook", json={"project": {"id": "x"}}).status_code == 422


def test_no_worker_is_told(label_studio: TestClient, workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        from dataengine.records import DetectorVersion

        catalog.detectors.add(DetectorVersion(id="d2", name="second", checkpoint="1" * 64))
        catalog.detectors.promote("d2", "test", "better")
        catalog.commit()
    answer = label_studio.post("/label-studio/predict", json={"tasks": tasks(workspace)[:1]})
    assert answer.status_code == 503 and "clinic worker" in answer.json()["error"]


def test_a_webhook_is_a_hint_to_pull(client_of: Client, workspace: Workspace) -> None:
    client = client_of()
    client.headers["X-Clinic-Secret"] = signing_secret(workspace)
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 7, "title": "x"}, "annotation": {"id": 3}}
    unknown = client.post("/label-studio/webhook", json=event)
    assert unknown.status_code == 404 and "clinic push" in unknown.json()["error"]
    with workspace.catalog() as catalog:
        home = {
            "kind": "label-studio",
            "name": "x",
            "location": "http://127.0.0.1:9",
            "settings": {"project": 7},
        }
        catalog.endpoints.add(Endpoint(id="ls", **home))  # type: ignore[arg-type]
        catalog.commit()
    assert client.post("/label-studio/webhook", json=event).status_code == 202
    for _ in range(3):
        assert client.post("/label-studio/webhook", json=event).json() == {
            "status": "a pull is already queued"
        }
    assert (
        client.post("/label-studio/webhook", json={"action": "TASKS_CREATED"}).json()["status"] == "ignored"
    )
    with workspace.catalog(read_only=True) as catalog:
        jobs = catalog.jobs.list(kind="pull")
    assert [job.args for job in jobs] == [{"endpoint": "ls"}]


def test_retraining_is_debounced(label_studio: TestClient, workspace: Workspace) -> None:
    event = {"action": "START_TRAINING"}
    with workspace.catalog() as catalog:
        before = {row.id for row in catalog.rounds.list()}
        catalog.connection.execute(tables.rounds.update().values(created=now()))
        catalog.commit()
    assert "started recently" in label_studio.post("/label-studio/webhook", json=event).json()["status"]
    from pipelines import recipes

    recipe = recipes.named("cpu-smoke", 0).model_dump(mode="json")
    with workspace.catalog() as catalog:
        # A round that began long ago, newer than the furnished one by its id only.
        catalog.rounds.add(
            Round(id="open", recipe=recipe, stage="mine", state="waiting", created=now() - 9e5)
        )
        catalog.commit()
    assert "open round will use" in label_studio.post("/label-studio/webhook", json=event).json()["status"]
    with workspace.catalog(read_only=True) as catalog:
        assert {row.id for row in catalog.rounds.list()} == before | {"open"}


def test_signed_pictures(client_of: Client, workspace: Workspace) -> None:
    client = client_of()
    with workspace.catalog(read_only=True) as catalog:
        first, second = catalog.images.find()[:2]
    path = signed_path(first.id, signing_secret(workspace), now())
    other_site = {"origin": "http://labels.example", "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
    answer = client.get(path, headers=other_site)
    assert answer.status_code == 200 and answer.content == workspace.blobs.get(first.sha256)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert client.get(path.replace(first.id, second.id)).status_code == 404
    assert client.get(path.replace("expires=1", "expires=2")).status_code == 404
    assert client.get(signed_path(first.id, signing_secret(workspace), 0.0)).status_code == 404
    assert client.get(path.partition("&")[0]).status_code == 422
    assert "cross-origin" not in client.get("/login").headers["cross-origin-resource-policy"]
