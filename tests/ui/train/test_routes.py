"""What /train shows and does, without a browser: forms, bad input, promotion, how a run stands."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import save_file

from dataengine.diagnosis.config import DetectorConfig
from dataengine.records import (
    BenchmarkItem,
    DetectorVersion,
    Endpoint,
    Job,
    Label,
    OperatingPoint,
    WorkerBeat,
    now,
)
from pipelines.config import TrainingRun
from pipelines.services import runs
from storage import tables
from storage.workspace import Workspace
from ui.web.settings_form import form

ClientOf = Callable[..., TestClient]


@pytest.fixture
def engineer(client_of: ClientOf) -> TestClient:
    return client_of("engineer")


def settings(**training: Any) -> dict[str, Any]:
    told = TrainingRun().model_dump(mode="json")
    told["training"] |= {"name": "second", "steps": 10, **training}
    return {"settings": told}


def with_weights(workspace: Workspace, folder: Path, **tensors: tuple[int, ...]) -> None:
    """Give the champion a checkpoint with tensors of these shapes."""
    folder.mkdir()
    (folder / "detector.json").write_text(DetectorConfig().model_dump_json())
    zeros = {name.replace("__", "."): np.zeros(shape, np.float32) for name, shape in tensors.items()}
    save_file(zeros, folder / "model.safetensors")
    with workspace.catalog() as catalog:
        found = catalog.detectors.get("d1")
        made = replace(found, id="d0", role="candidate", checkpoint=workspace.checkpoints.publish(folder))
        catalog.detectors.add(made)
        catalog.detectors.promote("d0", "test", "it has weights")
        catalog.commit()


RIGHT = {"segformer__encoder__patch_embeddings__0__proj__weight": (8, 3, 7, 7), "head__weight": (1, 8)}


def label_some(workspace: Workspace, count: int = 4) -> None:
    with workspace.catalog() as catalog:
        for image in catalog.images.find(limit=count):
            catalog.labels.submit(
                Label(image_id=image.id, author="ann", height=image.height, width=image.width, clean=True)
            )
        catalog.commit()


def leaves(fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [leaf for one in fields for leaf in (leaves(one["fields"]) if one["kind"] == "group" else [one])]


def groups_named(fields: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The groups of that name, at any depth."""
    groups = [one for one in fields if one["kind"] == "group"]
    return [one for one in groups if one["name"] == name] + [
        inner for one in groups for inner in groups_named(one["fields"], name)
    ]


def test_the_form_is_made_of_the_settings_own_fields_and_docstrings() -> None:
    values = TrainingRun().model_dump(mode="json")
    fields = form(TrainingRun, values)
    found = {leaf["name"]: leaf for leaf in leaves(fields)}
    assert [one["name"] for one in fields] == list(TrainingRun.model_fields)
    assert all(leaf["help"] for leaf in leaves(fields))
    assert found["steps"] == {
        "name": "steps",
        "label": "Training length",
        "unit": "updates",
        "help": "Updates.",
        "optional": False,
        "value": 40_000,
        "kind": "number",
        "whole": True,
        "low": 1,
        "above": False,
        "high": 10_000_000,
        "below": False,
    }
    assert found["precision"]["options"] == ["no", "bf16", "fp16"]
    assert found["leave_out"] | {"help": ""} == {
        "name": "leave_out",
        "label": "Ignored pixels",
        "unit": "confidence",
        "help": "",
        "optional": True,
        "value": None,
        "kind": "pair",
    }
    assert found["flawed"]["optional"] and found["flawed"]["value"] is None
    terms = groups_named(fields, "loss")[0]["fields"]
    assert [(one["name"], one["value"]) for one in terms] == [
        ("squared", 1.0),
        ("focal", 0.0),
        ("focal_gamma", 2.0),
        ("dice", 0.0),
        ("peak", 0.0),
        ("peak_share", 1 / 256),
        ("flawed_pixels", 1.0),
    ]
    assert found["mixture"]["kind"] == "shares" and found["upright"]["kind"] == "words"


def test_presets_are_settings_that_can_be_used_as_they_are(engineer: TestClient) -> None:
    first = engineer.get("/api/train/form").json()
    for name in first["presets"]:
        told = engineer.get("/api/train/form", params={"preset": name}).json()
        assert told["preset"] == name and runs.validated(TrainingRun, values(told["fields"]))
    assert ["d1", "first doctor · champion"] in first["choices"]["start"]
    assert [one["value"] for one in first["recipes"]] == first["presets"]
    assert all(one["help"] for one in (*first["recipes"], *first["starts"]))


def test_each_recipe_offers_the_starts_that_fit_it(engineer: TestClient, workspace: Workspace) -> None:
    def starts(preset: str) -> dict[str, dict[str, Any]]:
        found = engineer.get("/api/train/form", params={"preset": preset}).json()
        return {one["value"]: one for one in found["starts"]}

    photo, paper = starts("recipe photo"), starts("recipe paper")
    assert list(photo) == ["", "d1", "imagenet", "random"]
    assert photo[""]["name"] == "the champion, first doctor"
    assert photo["imagenet"]["name"] == "ImageNet weights of timm-tf_efficientnet_lite0"
    assert "licence: Apache-2.0" in photo["imagenet"]["help"] and photo["imagenet"]["forbids"] == ""
    assert list(paper) == ["", "d1", "nvidia/mit-b5", "random"]
    assert paper["nvidia/mit-b5"]["forbids"] == "commercial use"
    assert "NVIDIA" in paper["nvidia/mit-b5"]["help"]
    register(workspace, "/models/ours.safetensors")
    assert starts("recipe photo")["/models/ours.safetensors"]["group"] == "pre-trained encoders"


def register(workspace: Workspace, location: str) -> None:
    with workspace.catalog() as catalog:
        catalog.endpoints.add(Endpoint(id="e1", kind="encoder", name="our encoder", location=location))
        catalog.commit()


def started(client: TestClient, start: str | None, **changed: Any) -> tuple[int, str]:
    body = settings(**changed)
    body["settings"]["start"] = start
    answer = client.post("/api/train/start", json=body)
    return answer.status_code, answer.json().get("error", answer.json().get("run", ""))


def test_a_browser_starts_from_registered_weights_and_from_no_other_path(
    engineer: TestClient, workspace: Workspace, tmp_path: Path
) -> None:
    path = tmp_path / "encoder.safetensors"
    save_file({"conv1.weight": np.zeros(1, np.float32)}, path)
    for other in (str(path), "../encoder.safetensors", "owner/name", "https://e.example/x", "a.pth"):
        status, said = started(engineer, other)
        assert status == 422 and said.startswith(f"start is {other!r}, which is not registered"), said
    register(workspace, str(path))
    status, run = started(engineer, str(path))
    assert status == 200
    seen = engineer.get(f"/api/train/runs/{run}").json()["settings"]
    assert seen["start"] == seen["training"]["encoder_weights"] == str(path)
    status, said = started(engineer, "no-detector")
    assert status == 422 and "here is neither a detector nor a file 'no-detector'" in said


def test_the_first_detector_of_a_workspace_may_be_trained(engineer: TestClient, workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        catalog.connection.execute(tables.promotions.delete())
        catalog.connection.execute(tables.detectors.delete())
        catalog.commit()
    form = engineer.get("/api/train/form").json()
    assert form["preset"] == "recipe photo", "the recipe that needs no detector comes first"
    assert [one["value"] for one in form["starts"]] == ["imagenet", "random"]
    status, said = started(engineer, None)
    assert status == 422 and "here is no detector to start from; choose a start: a registered" in said
    for start in ("random", "imagenet"):
        network = DetectorConfig(architecture="unet", encoder="resnet18", size=64).model_dump(mode="json")
        status, run = started(engineer, start, detector=network)
        assert status == 200, run
        kept = engineer.get(f"/api/train/runs/{run}").json()["settings"]
        assert kept["start"] == start
        assert kept["training"]["encoder_weights"] == ("imagenet" if start == "imagenet" else "")


@pytest.mark.parametrize(
    ("start", "network", "verdict", "sentence"),
    [
        ("random", {}, "warn", "Training starts from random weights"),
        ("nvidia/mit-b5", {}, "warn", "It forbids commercial use. The result inherits it."),
        ("nvidia/mit-b0", {}, "bad", "of another size than this SegFormer; choose nvidia/mit-b5"),
        ("imagenet", {}, "bad", "no ImageNet weights under a free licence for SegFormer"),
        ("nvidia/mit-b0", {"architecture": "fpn"}, "bad", "is an encoder of SegFormer; this network is fpn"),
        ("imagenet", {"architecture": "fpn", "encoder": "resnet18"}, "good", "BSD-3-Clause"),
        ("imagenet", {"architecture": "fpn", "encoder": "mit_b0"}, "warn", "forbids commercial use"),
    ],
)
def test_preflight_says_what_a_start_means(
    engineer: TestClient, start: str, network: dict[str, Any], verdict: str, sentence: str
) -> None:
    body = settings(detector=DetectorConfig.model_validate(network).model_dump(mode="json"))
    body["settings"]["start"] = start
    checks = engineer.post("/api/train/checks", json=body).json()["checks"]
    assert any(one["verdict"] == verdict and sentence in one["text"] for one in checks), checks


def values(fields: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page would send back of an untouched form."""
    return {
        one["name"]: values(one["fields"])
        if one["kind"] == "group" and one["value"] is not None
        else one["value"]
        for one in fields
    }


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"steps": 0}, "training.steps is 0: it must be at least 1"),
        ({"lr": "fast"}, "training.lr is 'fast': enter a number"),
        ({"mixture": {"true": -1}}, "mixture {'true': -1.0} must not be negative"),
        ({"loss": {"squared": 0}}, "the loss has no term"),
        ({"loss": {"dice": -1}}, "training.loss.dice is -1"),
        ({"flawed": 1.5}, "training.flawed is 1.5"),
        ({"lr": 1000}, "training.lr is 1000: it must be at most 1"),
        ({"speed": 3}, "training.speed is 3: there is no such setting"),
    ],
)
def test_a_setting_out_of_range_is_named(
    engineer: TestClient, changed: dict[str, Any], sentence: str
) -> None:
    answer = engineer.post("/api/train/start", json=settings(**changed))
    assert answer.status_code == 422 and sentence in answer.json()["error"]


def test_a_training_is_asked_for_once_stopped_and_gone_on_with(
    engineer: TestClient, client_of: ClientOf, workspace: Workspace, tmp_path: Path
) -> None:
    with_weights(workspace, tmp_path / "right", **RIGHT)
    label_some(workspace)
    run = engineer.post("/api/train/start", json=settings()).json()["run"]
    seen = engineer.get(f"/api/train/runs/{run}").json()
    assert seen["state"] == "queued" and seen["name"] == "second" and seen["by"] == "engineer"
    assert seen["settings"]["start"] == "d0" and "No worker is running" in seen["note"]
    assert engineer.post(f"/api/train/runs/{run}/cancel").json() == {"state": "cancelled"}
    refused = engineer.post(f"/api/train/runs/{run}/cancel")
    assert refused.status_code == 409 and "already cancelled" in refused.json()["error"]
    assert engineer.post(f"/api/train/runs/{run}/resume").json()["state"] == "queued"
    seen = engineer.get(f"/api/train/runs/{run}").json()
    assert seen["state"] == "queued" and seen["attempts"] == 2
    first = min(runs.run_of(workspace, "retrain", run).jobs, key=lambda job: job.created)
    again = engineer.post(f"/api/rounds/jobs/{first.id}/resume")
    assert again.status_code == 409 and "already resumed as" in again.json()["error"]
    assert engineer.post(f"/api/train/runs/{run}/pause").json() == {"state": "paused"}
    assert engineer.get(f"/api/train/runs/{run}").json()["state"] == "paused"
    assert engineer.post(f"/api/train/runs/{run}/resume").json()["state"] == "queued"
    assert engineer.get(f"/api/train/runs/{run}").json()["attempts"] == 3
    listed = engineer.get("/api/train/overview").json()
    assert [one["run"] for one in listed["runs"]] == [run] and not listed["worker"]
    moved = client_of("admin").post(f"/api/queue/retrain/{run}/first")
    assert moved.status_code == 409 and "not in the queue" in moved.json()["error"]
    assert engineer.post(f"/api/queue/retrain/{run}/first").status_code == 403


def test_a_worker_that_died_is_told_from_one_that_is_missing(workspace: Workspace) -> None:
    job = Job(id="j", kind="retrain", args={"run": "train-1", "settings": {}}, state="running", worker="w1")
    other = WorkerBeat(id="w2", host="here", pid=1, devices=("cpu",))
    same = replace(other, id="w1")
    assert "No worker is running" in runs.note_of(job, [])
    assert "stopped responding. Another worker resumes it" in runs.note_of(job, [other])
    assert runs.note_of(job, [other, same]) == ""
    assert runs.note_of(replace(job, state="succeeded"), []) == ""


def test_what_a_snapshot_would_hold(engineer: TestClient, workspace: Workspace) -> None:
    label_some(workspace, 4)
    seen = engineer.post("/api/train/preview", json=settings()).json()
    assert seen["rows"] == 4 and seen["kinds"] == {"true": 4} and seen["changes"] is None
    assert sum(row["negative"] for row in seen["categories"]) == 4


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (
            {"segformer__encoder__patch_embeddings__0__proj__weight": (8, 4, 7, 7)},
            "takes images with 4 channels and RGB has 3",
        ),
        (
            {"decode_head__classifier__weight": (3, 8, 1, 1)},
            "outputs 3 channels; one confidence per pixel",
        ),
    ],
)
def test_a_detector_for_other_channels_is_refused_before_it_is_loaded(
    engineer: TestClient, workspace: Workspace, tmp_path: Path, tensors: dict[str, Any], sentence: str
) -> None:
    with_weights(workspace, tmp_path / "wrong", **tensors)
    answer = engineer.post("/api/train/start", json=settings())
    assert answer.status_code == 422 and sentence in answer.json()["error"]
    checks = engineer.post("/api/train/checks", json=settings()).json()["checks"]
    assert {one["name"]: one["verdict"] for one in checks}["detector"] == "bad"
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.jobs.list(kind="retrain") == []


def test_without_a_worker_here_there_is_no_estimate_but_no_error(engineer: TestClient) -> None:
    (found,) = engineer.post("/api/train/needs", json=settings()).json()["checks"]
    assert found["verdict"] == "warn" and "no worker on this machine responds" in found["text"]


def write_metrics(workspace: Workspace, job: Job, lines: list[dict[str, Any]]) -> None:
    with workspace.catalog() as catalog:
        catalog.jobs.add(job)
        catalog.commit()
    folder = workspace.job_files.folder(job.id)
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"half')


def test_curves_are_thinned_but_keep_validation_and_the_last_attempt(workspace: Workspace) -> None:
    def line(step: int, **figures: float) -> dict[str, Any]:
        return {"time": 10.0 + step / 100, "done": step, "total": 30_000, **figures}

    args = {"run": "train-1", "settings": {}}
    first = Job(id="a", kind="retrain", args=args, state="failed", created=now() - 60)
    second = Job(id="b", kind="retrain", args=args, state="running", created=now(), started=now())
    write_metrics(
        workspace,
        first,
        [line(step, loss=9.0) for step in range(1, 20_001)] + [line(500, validation_mse=0.5)],
    )
    write_metrics(workspace, second, [line(step, loss=1.0) for step in range(15_001, 20_002)])
    run = runs.run_of(workspace, "retrain", "train-1")
    series = runs.curves(workspace, run.jobs, points=200)
    steps, losses = series["loss"]
    assert len(steps) < 450 and steps == sorted(set(steps)) and steps[-1] == 20_001
    assert set(losses[: steps.index(15_001)]) == {9.0} and set(losses[steps.index(15_001) :]) == {1.0}
    assert series["validation_mse"] == ([500], [0.5])
    told = runs.last_figures(workspace, run)
    assert told["step"] == 20_001 and told["rate"] == pytest.approx(100, rel=0.01)
    assert told["left"] == pytest.approx(99.99, rel=0.01)


def test_a_round_s_detector_shows_its_stage_s_curve(engineer: TestClient, workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        made = DetectorVersion(id="d2", name="round 1", checkpoint="1" * 64, round_id="r9")
        catalog.detectors.add(made)
        catalog.commit()
    job = Job(id="s", kind="stage", args={"round_id": "r9", "stage": "retrain"})
    write_metrics(workspace, job, [{"time": 1.0, "done": step, "total": 9, "loss": 0.5} for step in range(9)])
    assert engineer.get("/api/train/detectors/d2/curves").json() == {"loss": [list(range(9)), [0.5] * 9]}


def test_a_detector_says_what_it_was_made_for(engineer: TestClient, workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        catalog.detectors.add(DetectorVersion(id="d2", name="own", checkpoint="1" * 64))
        catalog.detectors.add(DetectorVersion(id="d3", name="doctor", checkpoint="2" * 64, domain="clinic"))
        catalog.commit()
    shown = [engineer.get(f"/api/train/detectors/{id}").json()["lineage"]["made for"] for id in ("d2", "d3")]
    assert shown == ["not recorded", "the embedded clinic's drawings"]


def with_candidate(workspace: Workspace, mse: float) -> None:
    with workspace.catalog() as catalog:
        catalog.detectors.record_metrics("d1", {"validation": {"mse": 0.03}})
        made = DetectorVersion(
            id="d2", name="round 1", checkpoint="1" * 64, metrics={"validation": {"mse": mse}}
        )
        catalog.detectors.add(made)
        item = BenchmarkItem(image_id=catalog.images.ids(limit=1)[0], stratum="hands", settled=True)
        draft = catalog.benchmarks.draft("first", [item], "curator")
        catalog.benchmarks.freeze(draft.id, "curator")
        catalog.commit()


def test_a_regression_needs_a_typed_reason(engineer: TestClient, workspace: Workspace) -> None:
    with_candidate(workspace, mse=0.04)
    shown = engineer.get("/api/train/detectors/d2").json()
    assert len(shown["objections"]) == 1 and shown["champion"] == {"id": "d1", "name": "first doctor"}
    asked = {"detector": "d2", "champion": "d1"}
    refused = engineer.post("/api/train/promote", json=asked)
    assert refused.status_code == 422 and refused.json()["error"].startswith(
        "give a reason to promote this detector"
    )
    done = engineer.post("/api/train/promote", json=asked | {"reason": "it finds watermarks"})
    assert done.json() == {"champion": "d2", "name": "round 1"}
    with workspace.catalog(read_only=True) as catalog:
        events = {event.action: event.details for event in catalog.audit.list(actor="engineer")}
    assert events["detector.promote"]["reason"] == "it finds watermarks"
    assert "validation MSE 0.04000 exceeds" in events["detector.promote.overruled"]["reasons"][0]
    back = engineer.post("/api/train/rollback", json={"champion": "d2"})
    assert back.json() == {"champion": "d1", "name": "first doctor"}


def test_of_two_people_promoting_one_is_told(engineer: TestClient, workspace: Workspace) -> None:
    with_candidate(workspace, mse=0.01)
    asked = {"detector": "d2", "champion": "d1"}
    assert engineer.post("/api/train/promote", json=asked).status_code == 200
    late = engineer.post("/api/train/promote", json=asked)
    assert late.status_code == 409
    assert late.json()["error"].startswith("the champion is now round 1, so nothing was changed")


def test_promoting_over_a_champion_needs_a_benchmark(engineer: TestClient, workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        catalog.detectors.add(DetectorVersion(id="d2", name="round 1", checkpoint="1" * 64))
        catalog.commit()
    answer = engineer.post("/api/train/promote", json={"detector": "d2", "champion": "d1", "reason": "new"})
    assert answer.status_code == 422 and "no frozen benchmark" in answer.json()["error"]


def test_a_detector_that_went_blind_is_shown_with_its_numbers(
    engineer: TestClient, workspace: Workspace
) -> None:
    with_candidate(workspace, mse=0.01)
    point = OperatingPoint(flagged=0.07, component=0.05, rule="f2", flawed=40, clean=60)
    with workspace.catalog() as catalog:
        for id, miss in (("d1", 0.08), ("d2", 0.36)):
            interval = (miss - 0.04, miss + 0.04)
            operating = {"miss": miss, "false_alarm": 0.1, "intervals": {"miss": interval}}
            found = catalog.detectors.get(id).metrics["validation"] | {"operating": operating}
            catalog.detectors.record_metrics(id, {"validation": found})
        catalog.detectors.set_operating_point("d2", point)
        catalog.commit()
    shown = engineer.get("/api/train/detectors/d2").json()
    assert shown["measured"]["validation"]["figures"]["miss"] == 0.36
    assert shown["beside"]["validation"]["figures"]["miss"] == 0.08
    assert (shown["operating_point"]["flagged"], shown["rates"]["miss"]) == (0.07, 0.36)
    (verdict,) = shown["verdicts"]
    assert (verdict["figure"], verdict["verdict"]) == ("miss", "worse")
    assert len(shown["objections"]) == 1 and "misses 0.08 → 0.36" in shown["objections"][0]
    asked = {"detector": "d2", "champion": "d1"}
    assert engineer.post("/api/train/promote", json=asked).status_code == 422
    assert engineer.post("/api/train/promote", json=asked | {"reason": "fewer alarms"}).status_code == 200
    row = engineer.get("/api/train/overview").json()["champion"]
    assert "0.07" in row["operating_point"]["text"] and row["rates"] == {"false_alarm": 0.1, "miss": 0.36}
