"""What an engineer reads before a decision: where a training begins, equal image sets, since when, names."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from dataengine.records import DetectorVersion, Job, now
from pipelines import recipes
from pipelines.services.detectors import objections_to, same_images, verdicts_on
from pipelines.services.training.presets import training_presets
from storage import tables
from storage.workspace import Workspace

ClientOf = Callable[..., TestClient]


@pytest.fixture
def engineer(client_of: ClientOf) -> TestClient:
    return client_of("engineer")


def detector(id: str, name: str = "", **more: Any) -> DetectorVersion:
    return DetectorVersion(id=id, name=name or id, checkpoint="1" * 64, **more)


def set_config(workspace: Workspace, id: str, config: dict[str, Any]) -> None:
    table = tables.detectors
    with workspace.catalog() as catalog:
        catalog.connection.execute(table.update().where(table.c.id == id).values(config=config))
        catalog.commit()


def first_steps(client: TestClient) -> tuple[str, int]:
    form = client.get("/api/train/form").json()
    training = next(one for one in form["fields"] if one["name"] == "training")
    steps = next(one for one in training["fields"] if one["name"] == "steps")
    return form["preset"], steps["value"]


def test_a_training_begins_from_the_champion_and_never_from_the_newest_detector(
    engineer: TestClient, workspace: Workspace
) -> None:
    """desks 4.1: after a smoke round New training stood at its 6 steps."""
    smoke = recipes.cpu_smoke().retrain.model_dump(mode="json")
    with workspace.catalog() as catalog:
        catalog.detectors.add(detector("d9", "smoke", config=smoke, created=now() + 60))
        catalog.commit()
    assert first_steps(engineer) == ("recipe photo", recipes.photo().training.steps)
    usual = smoke | {"steps": 420, "encoder_weights": "imagenet"}
    set_config(workspace, "d1", usual)
    assert first_steps(engineer) == ("as first doctor", 420)
    preset = training_presets(workspace)["as first doctor"]
    assert preset["start"] is None and preset["training"]["encoder_weights"] == ""
    assert not [name for name in training_presets(workspace) if "smoke" in name and "cpu" not in name]
    set_config(workspace, "d1", {"steps": "many"})
    assert first_steps(engineer)[0] == "recipe photo", "settings that cannot be read are left out"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"set": "a", "images": 80}, {"set": "a", "images": 80}, True),
        ({"set": "a", "images": 80}, {"set": "b", "images": 80}, False),
        ({"images": 80}, {"images": 85}, False),
        ({"images": 80}, {"images": 80}, True),
        ({"set": "a", "images": 80}, {"images": 85}, False),
        ({"images": 80}, {}, False),
    ],
)
def test_figures_are_compared_on_equal_image_sets_only(
    one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    """desks 4.5: 80 images were set against 85."""
    champion, candidate = measured("c", one), measured("d2", other)
    assert same_images(champion.metrics, candidate.metrics, "validation") is same
    assert bool(verdicts_on(candidate, champion)) is same
    objections = objections_to(candidate, champion)
    assert any("another set of validation images" in text for text in objections) is not same


def measured(id: str, images: dict[str, Any]) -> DetectorVersion:
    figures = {"mse": 0.03, "intervals": {"mse": [0.02, 0.04]}}
    return detector(id, metrics={"validation": figures | images})


def test_both_can_be_measured_on_the_same_images(engineer: TestClient, workspace: Workspace) -> None:
    """desks 4.5: the page says what cannot be compared, and offers to measure it."""
    with workspace.catalog() as catalog:
        catalog.detectors.record_metrics("d1", measured("d1", {"images": 80}).metrics)
        catalog.detectors.add(measured("d2", {"images": 85}))
        catalog.commit()
    shown = engineer.get("/api/train/detectors/d2").json()
    assert shown["beside"]["validation"]["comparable"] is False and not shown["measuring"]
    assert engineer.post("/api/train/detectors/d2/measure").json()["job"]
    assert engineer.get("/api/train/detectors/d2").json()["measuring"]
    assert engineer.post("/api/train/detectors/none/measure").status_code == 404


def test_since_is_the_time_of_promotion_or_of_rolling_back(
    engineer: TestClient, workspace: Workspace
) -> None:
    """desks 4.6: the page showed when the detector was made."""
    before = now()
    with workspace.catalog() as catalog:
        catalog.detectors.add(detector("d2", created=before - 9000))
        catalog.detectors.promote("d2", "eve", "better")
        catalog.commit()
    promoted = engineer.get("/api/train/overview").json()["champion"]
    assert promoted["id"] == "d2" and before <= promoted["since"] <= now()
    between = now()
    assert engineer.post("/api/train/rollback", json={"champion": "d2"}).status_code == 200
    back = engineer.get("/api/train/overview").json()["champion"]
    assert back["id"] == "d1" and between <= back["since"] <= now()


def test_two_things_never_get_one_name(engineer: TestClient, workspace: Workspace) -> None:
    """desks 4.7: every training was called "candidate"."""
    with workspace.catalog() as catalog:
        assert catalog.detectors.free_name("candidate") == "candidate"
        catalog.detectors.add(detector("d2", "candidate"))
        assert catalog.detectors.free_name("candidate") == "candidate 2"
        catalog.detectors.add(detector("d3", "candidate 2"))
        assert catalog.detectors.free_name("candidate") == "candidate 3"
        catalog.commit()
    taken = engineer.post("/api/train/detectors/d2/rename", json={"name": " first doctor "})
    assert taken.status_code == 409 and "already called 'first doctor'" in taken.json()["error"]
    for bad in ("", "   ", "a\nb", "x" * 121):
        refused = engineer.post("/api/train/detectors/d2/rename", json={"name": bad})
        assert refused.status_code == 422 and "is no name" in refused.json()["error"], bad
    assert engineer.post("/api/train/detectors/d2/rename", json={"name": "big"}).json() == {"name": "big"}
    treated = engineer.post("/api/treat/generators/treated/rename", json={"name": "gentle"})
    assert treated.json() == {"name": "gentle"}
    assert engineer.get("/api/treat/overview").json()["treatments"][0]["treated"] == "gentle"
    with workspace.catalog(read_only=True) as catalog:
        actions = [event.action for event in catalog.audit.list(actor="engineer")]
    assert {"detector.rename", "generator.rename"} <= set(actions)


def test_a_run_is_renamed_with_all_its_attempts(engineer: TestClient, workspace: Workspace) -> None:
    """desks 4.7: a run of several jobs keeps its new name when it is resumed."""
    args = {"run": "train-1", "settings": {"training": {"name": "candidate"}}}
    jobs = [
        Job(id=id, kind="retrain", args=args, state="failed", created=now() - at)
        for at, id in enumerate("ab")
    ]
    with workspace.catalog() as catalog:
        for job in jobs:
            catalog.jobs.add(replace(job))
        catalog.commit()
    path = "/api/train/runs/train-1"
    assert engineer.get(path).json()["name"] == "candidate"
    assert engineer.post(f"{path}/rename", json={"name": "wide net"}).json() == {"name": "wide net"}
    assert engineer.get(path).json()["name"] == "wide net"
    assert engineer.post(f"{path}/resume").status_code == 200
    assert engineer.get(path).json()["name"] == "wide net"
    assert engineer.post(f"{path}/rename", json={"name": ""}).status_code == 422
