"""A round is chosen and checked before it starts, alike on the desk and on the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import app
from dataengine.errors import ConfigRefused
from dataengine.records import DetectorVersion, GeneratorVersion, Job, Round
from pipelines.config import RoundRecipe
from pipelines.generators.files import drawn_unasked
from pipelines.recipes import named
from pipelines.services import round_options
from pipelines.stages.generate import generators_of
from storage.workspace import Workspace
from tests.pipelines.conftest import fresh_context
from ui.rounds.timeline import links_of
from ui.rounds.timeline import named as with_names

Clients = Callable[..., TestClient]


def treated(id: str) -> GeneratorVersion:
    return GeneratorVersion(
        id=id, name=f"{id}, treated", location="nowhere", parent="base", treatment_id="t1"
    )


def test_a_treated_generator_draws_in_later_rounds_only_when_chosen(tmp_path: Path) -> None:
    """desks 4.3: every treatment made all later rounds longer."""
    context, round_id = fresh_context(tmp_path / "workspace")
    with context.workspace.catalog() as catalog:
        (base,) = catalog.generators.list()
        for one in (treated("a"), treated("b")):
            catalog.generators.add(GeneratorVersion(**{**vars_of(one), "created": base.created}))
        catalog.commit()
    assert generators_of(context, round_id, named("fakes"), "survey") == (base.id,)
    chosen = named("fakes")
    chosen = chosen.model_copy(
        update={"generate": chosen.generate.model_copy(update={"generators": ("b", base.id)})}
    )
    assert generators_of(context, round_id, chosen, "survey") == ("b", base.id)
    with context.workspace.catalog() as catalog:
        catalog.generators.remove(base.id, "test", "")
        catalog.commit()
    with pytest.raises(ConfigRefused, match="No registered generator reads prompts and is untreated"):
        generators_of(context, round_id, named("fakes"), "survey")
    assert not drawn_unasked(context.workspace, treated("a"))
    context.workspace.close()


def vars_of(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


CHOICES: dict[str, Any] = {
    "prompts": 3,
    "images": 2,
    "hard_prompts": 5,
    "budget": 7,
    "steps": 11,
    "updates": 4,
}


def test_command_and_desk_make_the_same_round_of_the_same_choices(
    client_of: Clients, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """desks 4.3: generators, sizes and budgets are chosen."""
    body = {"recipe": "fakes", "seed": 3, "parts": ["detector"], "generators": ["treated flux", "base"]}
    answer = client_of("engineer").post("/api/rounds/round", json=body | CHOICES | {"correction": "ttc"})
    assert answer.status_code == 200, answer.text
    words = [f"--{name.replace('_', '-')}={value}" for name, value in CHOICES.items()]
    words += ["--recipe=fakes", "--seed=3", "--part=detector", "--correction=ttc", "--detach", "--json"]
    words += ["--generator=treated flux", "--generator=base"]
    assert app.main(["--workspace", str(workspace.path), "round", *words]) == 0
    made = json.loads(capsys.readouterr().out)["round"]
    with workspace.catalog(read_only=True) as catalog:
        one, other = (catalog.rounds.get(id).recipe for id in (answer.json()["round"], made))
    assert one == other
    assert one["generate"]["generators"] == ["treated", "base"] and one["parts"] == ["detector"]
    assert (one["generate"]["prompts_per_category"], one["generate"]["seeds_per_prompt"]) == (3, 2)
    assert (one["write_prompts"]["hard_per_category"], one["mine"]["budget"]) == (5, 7)
    assert (one["retrain"]["steps"], one["treat"]["tuning"]["updates"]) == (11, 4)


def test_a_preflight_says_what_is_missing_and_what_the_round_takes(
    client_of: Clients, workspace: Workspace
) -> None:
    """desks 4.4: without a generator a round started and failed at its first stage."""
    engineer = client_of("engineer")
    body = {"recipe": "demo", "seed": 0, "parts": ["hard", "detector", "treatment"]}
    found = engineer.post("/api/rounds/checks", json=body).json()
    recipe = named("demo")
    drawn = 7 * recipe.generate.prompts_per_category * recipe.generate.seeds_per_prompt
    assert found["cost"]["survey"] == 2 * drawn, "both of the world's generators are untreated"
    one = engineer.post("/api/rounds/checks", json=body | {"generators": ["base"], "images": 1}).json()
    assert one["cost"]["survey"] == 7 * recipe.generate.prompts_per_category
    assert one["cost"]["labels"] == recipe.mine.budget and one["cost"]["updates"] == 100
    assert one["cost"]["steps"] == recipe.train_teacher.steps + recipe.retrain.steps
    survey = engineer.post("/api/rounds/checks", json=body | {"parts": []}).json()["cost"]
    assert (survey["hard"], survey["labels"], survey["steps"], survey["updates"]) == (0, 0, 0, 0)
    assert found["seconds"] is None and verdicts(found) == {
        "worker": "warn",
        "generators": "warn",
        "detector": "good",
        "benchmark": "warn",
        "disk": verdicts(found)["disk"],
    }
    unknown = engineer.post("/api/rounds/checks", json=body | {"generators": ["flux 9"]})
    assert unknown.status_code == 404 and "no generator 'flux 9'" in unknown.json()["error"]
    with workspace.catalog() as catalog:
        for id in ("base", "treated"):
            catalog.generators.remove(id, "test", "")
        catalog.commit()
    assert verdicts(engineer.post("/api/rounds/checks", json=body).json())["generators"] == "bad"
    refused = engineer.post("/api/rounds/round", json=body)
    assert refused.status_code == 422 and "needs a generator" in refused.json()["error"]
    with workspace.catalog(read_only=True) as catalog:
        assert not [row for row in catalog.rounds.list() if row.recipe.get("name") == "demo"]


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["verdict"] for one in found["checks"]}


def test_time_is_estimated_by_the_speed_of_an_earlier_round(workspace: Workspace) -> None:
    recipe = RoundRecipe.model_validate(round_options.recipe("fakes", 0, ["treatment"]))
    cost = round_options.round_cost(recipe, 1)
    row = Round(id="r7", recipe=recipe.model_dump(mode="json"), stage="done", state="done")
    row.results.update({"generate": {"images": 10}, "treat": {"updates": 2}})
    seconds = {"generate": 20.0, "diagnose": 10.0, "treat": 6.0}
    with workspace.catalog() as catalog:
        assert round_options.expected_seconds(catalog, cost) is None
        catalog.rounds.add(row)
        for stage, took in seconds.items():
            args = {"round_id": "r7", "stage": stage}
            times = {"created": 1.0, "started": 100.0, "finished": 100.0 + took}
            job = Job(id=f"r7.{stage}.1", kind="stage", args=args, state="succeeded", **times)
            catalog.jobs.add(job)
        catalog.commit()
        found = round_options.expected_seconds(catalog, cost)
    assert found == (pytest.approx(3.0 * cost.drawn + 3.0 * cost.updates), "r7")


def test_every_stage_leads_to_what_it_made(client_of: Clients, workspace: Workspace) -> None:
    """desks 4.8."""
    results: dict[str, Any] = {
        "generate": {"images": 4, "by_generator": {"base": 4}},
        "mine": {"queued": 2},
        "retrain": {"detector": "d2", "samples": {}},
        "promote": {"promoted": True, "champion": "d2", "reasons": []},
        "treat": {"treatment": "t1", "treated": "treated", "kept": 1, "updates": 2, "stopped": "done"},
        "judge": {"treated": "treated", "pairs": 0},
    }
    row = Round(id="r1", recipe={}, stage="done", state="done", results=results)
    assert links_of("judge", row, ["s1"]) == [{"text": "study", "href": "/study?view=results&study=s1"}]
    assert links_of("publish", row, []) == []
    with workspace.catalog() as catalog:
        catalog.rounds.add(row)
        catalog.detectors.add(DetectorVersion(id="d2", name="second", checkpoint="1" * 64, round_id="r1"))
        catalog.commit()
    found = client_of("engineer").get("/api/rounds/round/r1").json()
    links = {one["name"]: [link["href"] for link in one["links"]] for one in found["stages"] if one["links"]}
    assert links == {
        "generate": ["/curate?view=images&round=r1&sort=newest"],
        "mine": ["/curate?view=images&round=r1&sort=newest&state=waiting"],
        "retrain": ["/train?detector=d2"],
        "promote": ["/train?detector=d2"],
        "treat": ["/treat?treatment=t1"],
        "judge": ["/study?view=make&after=treated"],
    }
    gives = {one["name"]: one["gives"] for one in found["stages"]}
    assert gives["generate"] == "4 images: 4 by tiny flux", "names instead of ids (desks 3.7, 4.7)"
    assert found["name"] == "round 2"
    shown = client_of("engineer").get("/api/train/detectors/d2").json()
    assert shown["lineage"]["round"] == "round 2"


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("4 by base", {"base": "tiny flux"}, "4 by tiny flux"),
        ("4 by base-2, 1 by base", {"base": "x"}, "4 by base-2, 1 by x"),
        ("4 by a.b", {"a.b": r"back\1slash"}, r"4 by back\1slash"),
        ("database", {"base": "x"}, "database"),
    ],
)
def test_names_stand_in_for_whole_ids_only(text: str, names: dict[str, str], expected: str) -> None:
    assert with_names(text, names) == expected
