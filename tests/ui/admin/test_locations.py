"""A browser may name what an admin registered, what a preset holds and what is embedded, and nothing else."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Page, expect
from pydantic import BaseModel

from dataengine.errors import ConfigRefused
from dataengine.quality.config import StudyDesign
from dataengine.records import Endpoint
from dataengine.treatment.config import RewardConfig, TreatmentConfig
from pipelines.config import RefiningRun, RoundRecipe, TrainingRun, TreatmentRun
from pipelines.services import round_options
from pipelines.services.endpoints import KINDS
from pipelines.services.locations import check_locations, marks_of
from pipelines.services.training.presets import REWARDED, TREATMENTS, training_presets, treatment_presets
from storage.workspace import Workspace
from ui.config import ServerConfig
from ui.server import background

ClientOf = Callable[..., TestClient]

LEADS = re.compile(r"\b(folder|hub id|url|file|location)\b", re.IGNORECASE)
"""What the help of a field says that leads somewhere."""
PATH = "/etc/somewhere"
SCORERS = [[f"{kind}:{PATH}", "our scorer"] for kind in ("clip", "pickscore", "hpsv2")]
REWARD = {"kind": "clip", "location": PATH}


@pytest.fixture
def engineer(client_of: ClientOf) -> TestClient:
    return client_of("engineer")


def register(workspace: Workspace, *kinds: str, location: str = PATH) -> None:
    with workspace.catalog() as catalog:
        for kind in kinds:
            catalog.endpoints.add(Endpoint(id=kind, kind=kind, name=f"our {kind}", location=location))  # type: ignore[arg-type]
        catalog.commit()


def treatment(**changes: Any) -> dict[str, Any]:
    return {"settings": TreatmentRun(generator="base").model_dump(mode="json") | changes}


def rewarded(**changes: Any) -> dict[str, Any]:
    tuning = TreatmentConfig(rewards=(RewardConfig.model_validate(REWARD | changes),))
    return treatment(tuning=tuning.model_dump(mode="json"))


UNREGISTERED = [
    (treatment(attributes=PATH), "attributes", "scorer"),
    (treatment(attributes="owner/name"), "attributes", "scorer"),
    (treatment(writer="http://10.0.0.1/v1#x"), "writer", "llm"),
    (treatment(scorers=["program:image-reward", f"clip:{PATH}"]), "scorers", "scorer"),
    (treatment(scorers=[f"pickscore:{PATH}"]), "scorers", "scorer"),
    (treatment(scorers=[PATH]), "scorers", "scorer"),
    (rewarded(), "tuning.rewards.location", "scorer"),
    (rewarded(location="clinic"), "tuning.rewards.location", "scorer"),
]


@pytest.mark.parametrize("route", ["checks", "needs", "start"])
def test_no_route_of_treat_takes_what_nobody_registered(
    engineer: TestClient, workspace: Workspace, route: str
) -> None:
    register(workspace, "vqa", "folder", "generator")  # another kind is not enough
    for asked, field, kind in UNREGISTERED:
        answer = engineer.post(f"/api/treat/{route}", json=asked)
        assert answer.status_code == 422, field
        said = answer.json()["error"]
        assert said.startswith(f"{field} is '") and "an admin can register it under /admin" in said
        assert f"as kind {kind} (registered: none)" in said
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.jobs.list(kind="treat") == []


def test_what_an_admin_registered_passes_until_it_is_removed(
    engineer: TestClient, workspace: Workspace
) -> None:
    asked = (
        treatment(attributes=PATH),
        treatment(scorers=[f"clip:{PATH}", f"pickscore:{PATH}", "program:image-reward"]),
        treatment(writer=PATH),
        rewarded(),
    )
    register(workspace, "scorer", "llm")
    assert [engineer.post("/api/treat/checks", json=one).status_code for one in asked] == [200] * 4
    with workspace.catalog() as catalog:
        catalog.endpoints.remove("scorer")
        catalog.endpoints.remove("llm")
        catalog.commit()
    assert [engineer.post("/api/treat/checks", json=one).status_code for one in asked] == [422] * 4


def test_presets_and_what_is_embedded_pass(
    engineer: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = TreatmentConfig(rewards=(RewardConfig.model_validate(REWARD),))
    assert engineer.post("/api/treat/checks", json=rewarded()).status_code == 422
    monkeypatch.setitem(TREATMENTS, "ours", lambda: own)
    for name, preset in treatment_presets("base").items():
        answer = engineer.post("/api/treat/checks", json={"settings": preset})
        asks = name in REWARDED
        assert answer.status_code == (422 if asks else 200), f"{name}: {answer.text}"
    elsewhere = treatment(scorers=[f"clip:{PATH}"])
    assert engineer.post("/api/treat/checks", json=elsewhere).status_code == 422, "it is another field's own"
    embedded = treatment(attributes="clinic", writer="clinic", scorers=["program:image-reward"])
    assert engineer.post("/api/treat/checks", json=embedded).status_code == 200


@pytest.mark.parametrize("route", ["preview", "checks", "needs", "start"])
def test_a_training_takes_names_of_networks_and_no_places(engineer: TestClient, route: str) -> None:
    told = TrainingRun().model_dump(mode="json")
    assert engineer.post("/api/train/checks", json={"settings": told}).status_code == 200
    for field, value in (
        ("encoder", "tu-local-dir:/etc"),
        ("options", {"checkpoint_path": "/etc/x.ckpt"}),
        ("segformer", {"attn_implementation": "owner/kernel"}),
    ):
        detector = told["training"]["detector"] | {field: value}
        asked = told | {"training": told["training"] | {"detector": detector}}
        answer = engineer.post(f"/api/train/{route}", json={"settings": asked})
        assert answer.status_code == 422
        said = answer.json()["error"]
        assert said.startswith(f"training.detector.{field} is '") and "a browser cannot set this" in said


def test_presets_of_a_training_pass(engineer: TestClient, workspace: Workspace) -> None:
    for name, preset in training_presets(workspace).items():
        answer = engineer.post("/api/train/checks", json={"settings": preset})
        assert answer.status_code == 200, f"{name}: {answer.text}"


def test_a_round_names_what_its_recipe_names(
    engineer: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"recipe": "demo", "parts": ["hard"]}
    assert engineer.post("/api/rounds/round", json=asked).status_code == 200
    reward = {"kind": "reward", "reward": REWARD}
    monkeypatch.setitem(round_options.GUIDANCES, "clean", reward)
    answer = engineer.post("/api/rounds/round", json=asked | {"guidance": "clean"})
    assert answer.status_code == 422
    assert "generate.guidance.reward.location is '/etc/somewhere'" in answer.json()["error"]
    register(workspace, "scorer")
    assert engineer.post("/api/rounds/round", json=asked | {"guidance": "clean"}).status_code == 200


def test_the_form_offers_what_is_registered(engineer: TestClient, workspace: Workspace) -> None:
    def offered() -> dict[str, Any]:
        fields = engineer.get("/api/treat/form").json()["fields"]
        return {one["name"]: one["suggestions"] for one in fields if "suggestions" in one}

    assert offered() == {}
    register(workspace, "scorer", "folder")
    register(workspace, "llm", location="https://writer.example/v1#qwen")
    assert offered() == {
        "writer": [["https://writer.example/v1#qwen", "our llm"]],
        "real_scorer": SCORERS,
        "scorers": SCORERS,
        "lpips": [[PATH, "our scorer"]],
        "attributes": [[PATH, "our scorer"]],
    }


def models_in(kind: Any) -> Iterator[type[BaseModel]]:
    """The configurations that a type may hold."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in getattr(kind, "__args__", ()):
        yield from models_in(part)


def test_every_setting_that_leads_somewhere_is_marked() -> None:
    seen: set[type[BaseModel]] = set()
    unmarked, marked, kinds = list[str](), set[str](), set[str]()

    def look(model: type[BaseModel]) -> None:
        seen.add(model)
        for name, field in model.model_fields.items():
            path = f"{model.__name__}.{name}"
            if marks := marks_of(field):
                marked.add(path)
                kinds.update(mark.kind for mark in marks)
            elif LEADS.search(field.description or "") and "str" in str(field.annotation):
                unmarked.append(path)
            for inner in set(models_in(field.annotation)) - seen:
                look(inner)

    for kind in (RoundRecipe, TrainingRun, TreatmentRun, RefiningRun, StudyDesign):
        look(kind)
    assert unmarked == []
    assert {"RewardConfig.location", "CategorizeConfig.model", "TreatConfig.scorers"} <= marked
    assert kinds - {""} <= set(KINDS), "an admin can register them"


def test_what_a_command_may_name_a_browser_may_not(workspace: Workspace, tmp_path: Path) -> None:
    plan = RefiningRun.model_validate({"refining": {"highlighter": {"weights": str(tmp_path / "vgg16")}}})
    with pytest.raises(
        ConfigRefused, match=r"refining\.highlighter\.weights is .*use a command on the server"
    ):
        check_locations(workspace, plan)
    check_locations(workspace, plan, [plan])
    check_locations(workspace, RefiningRun())


@pytest.mark.browser
def test_the_last_of_several_words_is_completed(workspace: Workspace, visiting: Callable[..., Page]) -> None:
    register(workspace, "scorer")
    with background(workspace, ServerConfig(port=0, desks=False)) as where:
        page = visiting(where.url, "engineer", "/treat")
        page.goto(f"{where.url}/treat?new=1")
        page.get_by_text("All settings").click()
        field = page.locator('[data-path="scorers"]')
        expect(field.locator("option").first).to_have_attribute("value", f"clip:{PATH}")
        field.locator("input").fill("program:image-reward, p")
        offered = field.locator(f'option[value="program:image-reward, pickscore:{PATH}"]')
        expect(offered).to_have_count(1)
        page.locator('[data-path="attributes"] input').fill("/etc/other")
        page.locator('[data-path="scorers"] input').fill("")
        expect(page.locator(".note.bad")).to_contain_text(
            "attributes is '/etc/other', which is not registered"
        )
        expect(page.locator('[data-path="attributes"].wrong')).to_be_visible()
