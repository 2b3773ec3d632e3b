"""The rounds desk over HTTP: timeline, who is waited for, figures, lineage, jobs, and running a round."""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.errors import InputRefused
from dataengine.records import DetectorVersion, Endpoint, Job, Label, Round, now
from pipelines.detectors import score_dynamics
from pipelines.round import ROUND
from pipelines.runtime.context import Context
from pipelines.services import round_options, rounds
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests import fake_workspace, fakes
from tests.pipelines.conftest import fresh_context, play
from tests.ui.conftest import ORIGIN, add_people, sign_in
from ui.config import ServerConfig
from ui.server import create_app

Clients = Callable[..., TestClient]
NAMES = [stage.name for stage in ROUND]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, str, TestClient]]:
    """A round of fakes from begin to end with simulated people, and an engineer's client."""
    context, round_id = fresh_context(tmp_path_factory.mktemp("finished") / "workspace")
    play(context, round_id)
    workspace = context.workspace
    add_people(workspace)
    client = TestClient(create_app(workspace, ServerConfig(desks=False)), base_url=ORIGIN)
    yield workspace, round_id, sign_in(client, "engineer")
    workspace.close()


def test_a_finished_round_says_what_went_in_and_out(finished: tuple[Workspace, str, TestClient]) -> None:
    workspace, round_id, engineer = finished
    found = engineer.get(f"/api/rounds/round/{round_id}").json()
    assert [one["name"] for one in found["stages"]] == NAMES
    assert {one["state"] for one in found["stages"]} == {"done"} and found["waiting"] is None
    by_name = {one["name"]: one for one in found["stages"]}
    with workspace.catalog(read_only=True) as catalog:
        results = catalog.rounds.get(round_id).results
        labels = catalog.labels.of_round(round_id)
    assert by_name["generate"]["gives"].startswith(f"{results['generate']['images']} images: ")
    assert by_name["publish"]["gives"].startswith("Snapshot with ")
    assert all(one["gives"] and one["takes"] for one in found["stages"])
    assert {one["name"]: one["images"] for one in found["people"]} == {
        author: len({label.image_id for label in labels if label.author == author})
        for author in {label.author for label in labels}
    }
    row = engineer.get("/api/rounds").json()["rounds"][0]
    assert row["labels"] == len(labels) and row["generator"] == results["treat"]["treated"]
    assert row["frequency"] == [results["judge"]["frequency"][when] for when in ("before", "after")]
    measured = results["evaluate"]
    assert row["mse"] == [measured[who]["validation"]["mse"] for who in ("champion", "candidate")]


def test_lineage_leads_from_the_treated_generator_to_every_label(
    finished: tuple[Workspace, str, TestClient],
) -> None:
    workspace, round_id, engineer = finished
    with workspace.catalog(read_only=True) as catalog:
        results = catalog.rounds.get(round_id).results
        snapshot = results["publish"]["snapshot"]
        drawn = [item for item in catalog.snapshots.items(snapshot) if item.author is not None]
    treated, promoted = results["treat"]["treated"], results["promote"]["promoted"]
    assert promoted and drawn, "the fakes' candidate is the better one and people drew for it"
    found = engineer.get(f"/api/rounds/lineage/{treated}").json()
    step = found["steps"][0]
    assert step["treatment"]["round"] == round_id and found["base"]["id"] == results["treat"]["generator"]
    chain = [one["id"] for one in step["detectors"]]
    assert chain[:2] == [results["retrain"]["detector"], results["train_teacher"]["detector"]]
    assert step["detectors"][0]["snapshot"]["id"] == snapshot
    assert found["labels"] == len({(item.image_id, item.author) for item in drawn})
    assert sum(found["authors"].values()) == found["labels"]
    text = engineer.get(f"/api/rounds/lineage/{treated}/labels.csv").text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {(row["image"], row["author"]) for row in rows} == {(item.image_id, item.author) for item in drawn}
    assert all(row["revision"].isdigit() and row["snapshot"] == snapshot for row in rows)
    assert engineer.get("/api/rounds/lineage/nobody").status_code == 404


def test_an_untreated_generator_rests_on_no_label(finished: tuple[Workspace, str, TestClient]) -> None:
    workspace, round_id, engineer = finished
    with workspace.catalog(read_only=True) as catalog:
        base = catalog.rounds.get(round_id).results["treat"]["generator"]
    found = engineer.get(f"/api/rounds/lineage/{base}").json()
    assert (found["steps"], found["labels"], found["base"]["id"]) == ([], 0, base)


def test_a_waiting_round_says_for_whom(client_of: Clients, workspace: Workspace) -> None:
    began = now() - 1000
    done = {name: {"images": 4} for name in NAMES[: NAMES.index("wait_for_labels")]}
    with workspace.catalog() as catalog:
        row = Round(id="r1", recipe={}, stage="wait_for_labels", results=done, state="waiting")
        catalog.rounds.add(row)
        ids = [item.image_id for item in catalog.queue.of_round("r1")]
        catalog.assignees.add_many(ids[:2], "r1", ["annotator"])
        catalog.jobs.add(
            Job(id="r1.generate.1", kind="stage", args={"round_id": "r1", "stage": "generate"}, created=began)
        )
        catalog.jobs.claim("r1.generate.1", "w")
        catalog.jobs.finish("r1.generate.1", "succeeded")
        label = Label(image_id=ids[5], author="curator", height=64, width=64, clean=True, round_id="r1")
        catalog.labels.submit(replace(label, lead_seconds=9.0))
        catalog.commit()
    found = client_of("curator").get("/api/rounds/round/r1").json()
    waits = found["waiting"]
    assert waits["reserved"] == {"annotator": 2} and waits["free"] == len(ids) - 3, "one is answered"
    assert waits["able"] == ["admin", "annotator", "curator"]
    assert found["people"] == [{"name": "curator", "images": 1, "clean": 1, "seconds": 9.0}]
    states = {one["name"]: one["state"] for one in found["stages"]}
    assert (states["mine"], states["wait_for_labels"], states["treat"]) == ("done", "waiting", "ahead")
    first = found["stages"][0]
    assert first["attempts"] == 1 and 0 <= first["seconds"] < 60 and first["gives"] == "images 4"


def test_a_round_runs_cancels_and_resumes(client_of: Clients, workspace: Workspace) -> None:
    engineer = client_of("engineer")
    wanted = {"recipe": "fakes", "seed": 3, "parts": ["treatment"], "budget": 7}
    round_id = engineer.post("/api/rounds/round", json=wanted).json()["round"]
    found = engineer.get(f"/api/rounds/round/{round_id}").json()
    states = {one["name"]: one["state"] for one in found["stages"]}
    assert states["generate"] == "queued" and states["treat"] == "ahead"
    assert states["mine"] == states["diagnose_hard"] == "left out"
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.rounds.get(round_id).recipe["mine"]["budget"] == 7
    assert engineer.post(f"/api/rounds/round/{round_id}/cancel").json() == {"state": "cancelled"}
    assert engineer.post(f"/api/rounds/round/{round_id}/cancel").status_code == 409
    job = engineer.post(f"/api/rounds/round/{round_id}/resume").json()["job"]
    assert engineer.post(f"/api/rounds/jobs/{job}/cancel").json()["state"] == "cancelled"
    assert engineer.post(f"/api/rounds/jobs/{job}/resume").json()["state"] == "queued"
    folder = workspace.job_files.folder(job)
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("one\ntwo\n")
    assert engineer.get(f"/api/rounds/jobs/{job}/log").json()["lines"] == ["one", "two"]
    shown = engineer.get("/api/rounds/jobs").json()
    assert len(shown["jobs"]) == 3 and shown["workers"] == []
    assert engineer.post("/api/rounds/round", json=wanted | {"recipe": "none"}).status_code == 404
    assert engineer.post("/api/rounds/round", json=wanted | {"parts": ["lunch"]}).status_code == 422
    assert client_of("annotator").post("/api/rounds/round", json=wanted).status_code == 403
    with pytest.raises(InputRefused, match="parts"):
        round_options.recipe("fakes", 0, ["lunch"])


def test_a_round_is_drawn_and_looked_at_as_chosen(client_of: Clients, workspace: Workspace) -> None:
    engineer, wanted = client_of("engineer"), {"recipe": "fakes", "parts": []}
    chosen = {"correction": "ttc-champion", "guidance": "reward-regions", "dynamics": True}
    round_id = engineer.post("/api/rounds/round", json=wanted | chosen).json()["round"]
    with workspace.catalog(read_only=True) as catalog:
        settings = catalog.rounds.get(round_id).recipe
    assert settings["generate"]["correction"]["regions"] == "detector"
    assert settings["generate"]["guidance"]["kind"] == "reward" and settings["generate"]["guidance"]["region"]
    assert settings["diagnose"]["dynamics"]["form"] == "robust"
    plain = round_options.recipe("fakes", 0, [])
    assert plain["generate"]["correction"] is None and plain["diagnose"]["dynamics"] is None
    refused = engineer.post("/api/rounds/round", json=wanted | {"correction": "magic"})
    assert refused.status_code == 422 and "choose ttc" in refused.json()["error"]
    for name in round_options.CORRECTIONS:
        round_options.recipe("demo", 0, [], round_options.RoundOverrides(correction=name))
    for name in round_options.GUIDANCES:
        round_options.recipe("demo", 0, [], round_options.RoundOverrides(guidance=name))


def test_a_rival_has_a_say_in_which_images_people_see(client_of: Clients, workspace: Workspace) -> None:
    engineer, wanted = client_of("engineer"), {"recipe": "fakes", "parts": []}
    with workspace.catalog() as catalog:
        catalog.detectors.add(DetectorVersion(id="d2", name="second", checkpoint="1" * 64))
        catalog.commit()
    assert engineer.get("/api/rounds").json()["detectors"] == [{"id": "d2", "name": "second"}]

    def mining(**chosen: Any) -> dict[str, Any]:
        return round_options.recipe("fakes", 0, [], round_options.RoundOverrides(**chosen))["mine"]

    assert (mining(second_detector="d2")["rival"], mining(second_detector="d2")["disagreement"]) == (
        "d2",
        1.0,
    )
    kept = round_options.recipe("fakes", 0, [], round_options.RoundOverrides(second_detector="dynamics"))
    assert (
        kept["mine"]["rival"] == score_dynamics.dynamics_id(DynamicsConfig()) and kept["diagnose"]["dynamics"]
    )
    assert mining(second_detector="question", question=("owner/seer", 16))["rival"] not in ("", "question")
    with pytest.raises(InputRefused, match="is a VQA model, and none is selected"):
        mining(second_detector="question")
    refused = engineer.post("/api/rounds/round", json=wanted | {"rival": "nobody"})
    assert refused.status_code == 404 and "nobody" in refused.json()["error"]
    assert engineer.post("/api/rounds/round", json=wanted | {"second_detector": "d2"}).status_code == 200


def test_a_registered_vqa_model_may_be_asked_beside_the_champion(
    client_of: Clients, workspace: Workspace
) -> None:
    engineer, wanted = client_of("engineer"), {"recipe": "fakes", "parts": []}
    asked = wanted | {"vqa": "owner/seer", "question": 16}
    refused = engineer.post("/api/rounds/round", json=asked)
    assert refused.status_code == 422
    assert "diagnose.question.model is 'owner/seer', which is not registered" in refused.json()["error"]
    with workspace.catalog() as catalog:
        catalog.endpoints.add(Endpoint(id="e", kind="vqa", name="seer", location="owner/seer"))
        catalog.commit()
    offered = engineer.get("/api/rounds").json()
    assert offered["vqa"] == [{"location": "owner/seer", "name": "seer"}] and len(offered["questions"]) == 43
    round_id = engineer.post("/api/rounds/round", json=asked).json()["round"]
    with workspace.catalog(read_only=True) as catalog:
        settings = catalog.rounds.get(round_id).recipe
    assert settings["diagnose"]["question"] == {"model": "owner/seer", "number": 16}


def test_a_round_without_its_labels_goes_from_prompts_to_treatment(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "workspace")
    fake_workspace.prepare(workspace)
    row = rounds.start_round(workspace, round_options.recipe("fakes", 0, ["treatment"]))
    assert play(Context(workspace, fakes.fake_models()), row.id) == ()
    with workspace.catalog(read_only=True) as catalog:
        ended = catalog.rounds.get(row.id)
    workspace.close()
    assert ended.state == "done"
    assert list(ended.results) == ["generate", "diagnose", "categorize", "write_prompts", "treat", "judge"]
