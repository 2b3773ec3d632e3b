"""What /treat?learn=1 shows and starts (DreamBooth), and the treatment of what was learned."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image as Picture

from dataengine.records import Endpoint, GeneratorVersion, Treatment
from pipelines.jobs.learn_instance import INSTANCE
from pipelines.jobs.treat_generator import PAIRS
from pipelines.services import runs
from pipelines.services.standalone import dreambooth
from storage.workspace import Workspace
from tests.ui.conftest import png

API = "/api/treat/instances"
PROMPTS = {"instance_prompt": "a sks hand", "class_prompt": "a hand"}


@pytest.fixture
def engineer(client_of: Callable[..., TestClient], workspace: Workspace, tmp_path: Path) -> TestClient:
    """A generator whose files are there, and a registered folder with two images and a broken one."""
    pipeline, folder = tmp_path / "flux", tmp_path / "instance"
    for made in (pipeline, folder):
        made.mkdir()
    (pipeline / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    for seed in range(2):
        (folder / f"{seed}.png").write_bytes(png(seed))
    (folder / "broken.png").write_bytes(b"not an image")
    with workspace.catalog() as catalog:
        catalog.generators.add(GeneratorVersion(id="flux", name="flux", location=str(pipeline)))
        catalog.endpoints.add(Endpoint(id="f", kind="folder", name="my hand", location=str(folder)))
        catalog.endpoints.add(Endpoint(id="e", kind="scorer", name="DINO", location="facebook/dinov2-base"))
        catalog.commit()
    return client_of("engineer")


def settings(client: TestClient, **values: Any) -> dict[str, Any]:
    """The form's values, as the page sends them."""

    def read(fields: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            one["name"]: read(one["fields"])
            if one["kind"] == "group" and one["value"] is not None
            else one["value"]
            for one in fields
        }

    plain = read(client.get(f"{API}/form").json()["fields"])
    return {"settings": {**plain, "generator": "flux", "ids": "", "name": "", **PROMPTS, **values}}


def checks(client: TestClient, asked: dict[str, Any]) -> dict[str, tuple[str, str]]:
    found = client.post(f"{API}/checks", json=asked).json()["checks"]
    return {one["name"]: (one["verdict"], one["text"]) for one in found}


def test_the_form_offers_registered_folders_and_encoders(engineer: TestClient, tmp_path: Path) -> None:
    found = engineer.get(f"{API}/form").json()
    fields = {one["name"]: one for one in found["fields"]}
    assert ["flux", "flux"] in found["choices"]["generator"]
    assert fields["images"]["suggestions"] == [[str(tmp_path / "instance"), "my hand"]]
    assert fields["encoder"]["suggestions"] == [["facebook/dinov2-base", "DINO"]]


def test_a_registered_folder_is_learned_from(
    engineer: TestClient, workspace: Workspace, tmp_path: Path
) -> None:
    asked = settings(engineer, images=str(tmp_path / "instance"), encoder="facebook/dinov2-base")
    verdict, text = checks(engineer, asked)["instance"]
    assert verdict == "warn" and text.startswith("Images of the instance: 2.") and "broken.png" in text
    run = engineer.post(f"{API}/start", json=asked).json()["run"]
    (row,) = engineer.get("/api/treat/overview").json()["instances"]
    assert (row["run"], row["name"], row["state"]) == (run, "flux, a sks hand", "queued")
    with workspace.catalog(read_only=True) as catalog:
        (job,) = catalog.jobs.list(kind="dreambooth")
    assert job.args["settings"]["class_prompt"] == "a hand" and job.args["run"] == run
    strip = engineer.get(f"{API}/runs/{run}/instance.png")
    assert strip.headers["content-type"] == "image/png"
    assert Picture.open(io.BytesIO(strip.content)).size == (2 * 128 + 10, 128)
    for press, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert engineer.post(f"{API}/runs/{run}/{press}").status_code == 200
        assert engineer.get(f"{API}/runs/{run}").json()["state"] == state
    assert engineer.get(f"{API}/runs/{run}/curves").json() == {}


def test_selected_images_are_learned_from_and_fixed_at_the_start(
    engineer: TestClient, workspace: Workspace
) -> None:
    words = "/curate?view=images&category=hands&generator=base"
    assert checks(engineer, settings(engineer, ids=words))["instance"] == (
        "good",
        "Images of the instance: 2.",
    )
    run = engineer.post(f"{API}/start", json=settings(engineer, ids=words)).json()["run"]
    kept = engineer.get(f"{API}/runs/{run}").json()["settings"]
    with workspace.catalog(read_only=True) as catalog:
        meant = {one.id for one in catalog.images.find(category="hands", generator_id="base")}
    assert set(kept["ids"]) == meant and len(meant) == 2 and kept["images"] == ""


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({}, 422, "name either a folder with images of the instance, or a selection"),
    ({"images": "FOLDER", "ids": "category=hands"}, 422, "name either a folder"),
    ({"images": "/etc"}, 422, "images is '/etc', which is not registered"),
    ({"ids": "category=hands", "encoder": "/etc"}, 422, "encoder is '/etc', which is not registered"),
    ({"ids": "categry=hands"}, 422, "no 'categry' to select by"),
    ({"ids": "category=zebra"}, 404, "no image matches category=zebra"),
    ({"ids": "source=generated"}, 422, "8 images match; an instance is learned from at most 4"),
    ({"ids": "category=hands", "class_prompt": "a sks hand"}, 422, "have the same prompt"),
    ({"ids": "category=hands", "instance_prompt": ""}, 422, "instance_prompt"),
    ({"ids": "category=hands", "generator": None}, 422, "choose a generator first"),
    ({"ids": "category=hands", "generator": "nobody"}, 404, "nobody"),
    ({"ids": "category=hands", "generator": "base"}, 422, "/models/flux"),
]


def test_what_cannot_be_learned_is_refused_in_one_sentence(
    engineer: TestClient, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dreambooth, "MOST_IMAGES", 4)
    plain = settings(engineer)["settings"]
    for values, status, sentence in REFUSED:
        named = {name: str(tmp_path / "instance") if one == "FOLDER" else one for name, one in values.items()}
        answer = engineer.post(f"{API}/start", json={"settings": {**plain, **named}})
        assert answer.status_code == status and sentence in answer.json()["error"], values
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.jobs.list(kind="dreambooth") == []


def test_the_layers_of_a_learned_instance_are_offered_for_treatment(
    engineer: TestClient, workspace: Workspace
) -> None:
    asked = settings(engineer, ids="category=hands", encoder="facebook/dinov2-base")
    run = engineer.post(f"{API}/start", json=asked).json()["run"]
    assert engineer.get("/api/treat/form", params={"instance": run}).status_code == 404, "not learned yet"
    plan = engineer.get(f"{API}/runs/{run}").json()["settings"]
    workspace.job_files.put(run, INSTANCE, {"settings": plan, "learned": "sks"})
    with workspace.catalog() as catalog:
        version = catalog.generators.get("flux")
        catalog.generators.add(
            GeneratorVersion(id="sks", name="flux, a sks hand", location=version.location, parent="flux")
        )
        catalog.commit()
    described = engineer.get("/api/treat/form", params={"instance": run}).json()
    fields = {one["name"]: one for one in described["fields"]}
    assert described["preset"] == "DiffDoctor without regularisation"
    assert described["choices"]["generator"][0] == ["sks", "flux, a sks hand"]
    assert (fields["generator"]["value"], fields["instance"]["value"]) == ("sks", run)
    treated, held_out = (fields[name]["value"] for name in ("prompts", "judge"))
    assert treated["source"] == held_out["source"] == "given"
    assert "a sks hand in the rain" in treated["texts"] and "a hand in the rain" in treated["texts"]
    assert "a sks hand on a beach" in held_out["texts"]
    assert not set(treated["texts"]) & set(held_out["texts"])
    tuning = {one["name"]: one for one in fields["tuning"]["fields"]}
    sampling = {one["name"]: one["value"] for one in tuning["sampling"]["fields"]}
    assert sampling["steps"] == 10 and tuning["offline"]["value"] is None
    other = {"instance": run, "preset": "Focus-N-Fix"}
    assert engineer.get("/api/treat/form", params=other).json()["preset"] == "Focus-N-Fix"
    assert engineer.get("/api/treat/form", params={"instance": "../x"}).status_code == 422


def test_the_likeness_is_shown_with_the_result(engineer: TestClient, workspace: Workspace) -> None:
    asked = settings(engineer, ids="category=hands")
    run = engineer.post(f"{API}/start", json=asked).json()["run"]
    plan = engineer.get(f"{API}/runs/{run}").json()["settings"]
    workspace.job_files.put(run, INSTANCE, {"settings": plan, "learned": "treated"})
    with workspace.catalog() as catalog:
        before, after = (catalog.images.find(generator_id=name)[0].id for name in ("base", "treated"))
        figures = {"before": 0.8, "after": 0.7, "ratio": 0.875, "interval": [0.8, 0.9], "pairs": 1}
        likeness = {"instance": run, "encoder": "facebook/dinov2-base", **figures}
        result = {"run": "treat-x", "judged": {"likeness": likeness}}
        catalog.treatments.add(Treatment(id="t", generator_id="base", detector_id="d1", result=result))
        catalog.commit()
    assert engineer.get("/api/treat/treatments/t/likeness.png").status_code == 404
    rows = [{"prompt": f"{PROMPTS['instance_prompt']} at night", "before": before, "after": after}]
    workspace.job_files.put("treat-x", PAIRS, rows)
    assert engineer.get("/api/treat/treatments/t").json()["judged"]["likeness"]["after"] == 0.7
    assert engineer.get("/api/treat/treatments/t/curves").json() == {}, "a command's run has no job"
    sheet = engineer.get("/api/treat/treatments/t/likeness.png")
    assert sheet.status_code == 200 and Picture.open(io.BytesIO(sheet.content)).width > 3 * 192
    assert engineer.get("/api/treat/treatments/t1/likeness.png").status_code == 404


def test_only_engineers_learn(client_of: Callable[..., TestClient]) -> None:
    for name, status in (("annotator", 403), ("curator", 403), ("engineer", 200), ("admin", 200)):
        assert client_of(name).get(f"{API}/form").status_code == status
    assert runs.KINDS[runs.INSTANCE] == "instance"
