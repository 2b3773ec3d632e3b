"""What /treat shows and does, without a browser: preflight, bad input, what came of a treatment."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as PilImage

from dataengine.errors import InputRefused
from dataengine.images import thumbnail
from dataengine.masks import PALETTE
from dataengine.records import DetectorVersion, Endpoint, GeneratorVersion, Round, Treatment, images
from pipelines.config import TreatmentRun
from pipelines.jobs.previews import save_samples
from pipelines.services import jobs, runs
from pipelines.services.model_card import judged_of, model_card
from pipelines.services.training.presets import REWARDED, treatment_presets
from storage.workspace import Workspace
from ui.treat.routes import prompts_in

ClientOf = Callable[..., TestClient]


@pytest.fixture
def engineer(client_of: ClientOf) -> TestClient:
    return client_of("engineer")


def settings(generator: str = "base", **changes: Any) -> dict[str, Any]:
    return {"settings": TreatmentRun(generator=generator).model_dump(mode="json") | changes}


def registered(workspace: Workspace, folder: Path, licence: str = "Apache-2.0") -> None:
    with workspace.catalog() as catalog:
        catalog.generators.add(
            GeneratorVersion(id="folder", name="a folder", location=str(folder), licence=licence)
        )
        catalog.commit()


def checks(client: TestClient, asked: dict[str, Any]) -> dict[str, tuple[str, str]]:
    found = client.post("/api/treat/checks", json=asked).json()["checks"]
    return {one["name"]: (one["verdict"], one["text"]) for one in found}


def test_a_prompt_file_gives_one_prompt_a_line() -> None:
    assert prompts_in("\ufeffa hand\r\n\r\n a face \na hand\n".encode()) == ["a hand", "a face"]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("eine schöne Hand".encode("latin-1"), "not UTF-8 text (byte 8 is invalid; it looks like Latin-1"),
        ("a hand".encode("utf-16"), "it looks like UTF-16"),
        (b"a hand\x00", "it contains NUL bytes"),
        (b" \n\n", "no prompts found"),
    ],
)
def test_a_prompt_file_in_another_encoding_is_refused(data: bytes, sentence: str) -> None:
    with pytest.raises(InputRefused) as refused:
        prompts_in(data)
    assert sentence in str(refused.value)


def test_the_route_takes_the_file_as_it_is(engineer: TestClient) -> None:
    assert engineer.post("/api/treat/prompts", content=b"one\ntwo\n").json() == {"texts": ["one", "two"]}
    refused = engineer.post("/api/treat/prompts", content="é".encode("latin-1"))
    assert refused.status_code == 422 and "save it as UTF-8" in refused.json()["error"]


def test_a_folder_that_is_no_pipeline_is_refused_before_anything_is_loaded(
    engineer: TestClient, workspace: Workspace, tmp_path: Path
) -> None:
    registered(workspace, tmp_path)
    answer = engineer.post("/api/treat/start", json=settings("folder"))
    assert answer.status_code == 422
    assert "is not a pipeline: it has no readable model_index.json" in answer.json()["error"]
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "AudioPipeline"}))
    verdict, text = checks(engineer, settings("folder"))["weights"]
    assert verdict == "bad" and "contains an unsupported AudioPipeline: " in text and "FluxPipeline" in text
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.jobs.list(kind="treat") == []


def test_preflight_says_what_is_missing_and_what_would_do(
    engineer: TestClient, workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    registered(workspace, tmp_path, licence="FLUX.1 [dev] non-commercial")
    found = checks(engineer, settings("folder"))
    assert found["weights"][0] == "good"
    assert found["worker"] == (
        "warn",
        "No worker is running, so the job will wait. Start one with “clinic worker”.",
    )
    assert found["licence"][0] == "warn" and "inherits" in found["licence"][1]
    assert found["real images"][0] == "bad" and "switch “offline” off" in found["real images"][1]
    tuning = TreatmentRun(generator="x").tuning.model_dump(mode="json") | {"offline": None}
    assert "pictures" not in checks(engineer, settings("folder", tuning=tuning)) and "bits" not in found
    assert "need a GPU" in checks(engineer, settings("folder", weights={"bits": 4}))["bits"][1]
    weights = next(
        one for one in engineer.get("/api/treat/form").json()["fields"] if one["name"] == "weights"
    )
    assert [one["name"] for one in weights["fields"]] == ["precision", "bits"] and weights["value"] is None


def test_a_generator_of_the_hub_is_told_how_to_get(engineer: TestClient, workspace: Workspace) -> None:
    registered(workspace, Path("somebody/some-flux"))
    assert checks(engineer, settings("folder"))["weights"] == (
        "warn",
        "somebody/some-flux is not on this machine; the worker downloads it at the start. To download it "
        "now, run “hf download somebody/some-flux”.",
    )
    (needs,) = engineer.post("/api/treat/needs", json=settings("folder")).json()["checks"]
    assert needs["verdict"] == "warn" and "until the weights are on this machine" in needs["text"]


def test_a_location_that_is_no_hub_id_is_a_finding(engineer: TestClient, workspace: Workspace) -> None:
    registered(workspace, Path("no/hub id/at all"))
    assert checks(engineer, settings("folder"))["weights"] == (
        "bad",
        "no/hub id/at all is neither a folder on this machine nor a repository of the hub.",
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"judge_seeds": 0}, "judge_seeds is 0: it must be at least 1"),
        ({"generator": ""}, "choose a generator first"),
        ({"generator": "nobody"}, "nobody"),
    ],
)
def test_wrong_settings_are_named(engineer: TestClient, changes: dict[str, Any], sentence: str) -> None:
    answer = engineer.post("/api/treat/start", json=settings(**changes))
    assert answer.status_code in (404, 422) and sentence in answer.json()["error"]


@pytest.mark.parametrize("name", REWARDED)
def test_a_preset_that_raises_a_reward_is_refused_without_one(
    engineer: TestClient, workspace: Workspace, name: str
) -> None:
    described = engineer.get("/api/treat/form", params={"preset": name}).json()
    tuning = next(field for field in described["fields"] if field["name"] == "tuning")
    rewards = next(field for field in tuning["fields"] if field["name"] == "rewards")
    (row,) = rewards["rows"]
    assert rewards["kind"] == "list" and {one["name"]: one["value"] for one in row}["location"] == ""
    asked = {"settings": treatment_presets("base")[name]}
    for route in ("checks", "start"):
        answer = engineer.post(f"/api/treat/{route}", json=asked)
        assert answer.status_code == 422
        assert answer.json()["error"].startswith(
            "tuning.rewards.0: a reward needs a scorer: name a registered"
        )
    asked["settings"]["tuning"]["rewards"] = []
    answer = engineer.post("/api/treat/checks", json=asked)
    assert answer.status_code == 422
    refused = answer.json()["error"]
    assert "no objective is on" in refused or "there are no rewards" in refused
    asked["settings"]["tuning"]["rewards"] = [{"kind": "pickscore", "location": "/models/pick"}]
    refused = engineer.post("/api/treat/checks", json=asked)
    assert refused.status_code == 422 and "which is not registered" in refused.json()["error"]
    with workspace.catalog() as catalog:
        catalog.endpoints.add(Endpoint(id="p", kind="scorer", name="PickScore", location="/models/pick"))
        catalog.commit()
    assert engineer.post("/api/treat/checks", json=asked).status_code == 200
    described = engineer.get("/api/treat/form", params={"preset": name}).json()
    assert '["/models/pick", "PickScore"]' in json.dumps(described["fields"])


def test_a_preset_with_the_detector_as_its_reward_says_so(engineer: TestClient) -> None:
    offered = treatment_presets("base")
    on_detector = {
        name for name, one in offered.items() if one["tuning"]["region"] or one["tuning"]["decay"] == "sqrt"
    } - set(REWARDED)
    assert len(on_detector) == 3 and all(
        name.endswith("with the detector as its reward") for name in on_detector
    )
    for name in on_detector:
        assert engineer.post("/api/treat/checks", json={"settings": offered[name]}).status_code == 200


def test_presets_hold_the_published_objectives(engineer: TestClient) -> None:
    told = engineer.get("/api/treat/form", params={"preset": "Focus-N-Fix"}).json()
    assert {"DiffDoctor", "DRaFT", "AlignProp", "ReFL", "recipe demo"} <= set(told["presets"])
    tuning = next(one for one in told["fields"] if one["name"] == "tuning")
    region = next(one for one in tuning["fields"] if one["name"] == "region")
    assert region["optional"] and region["value"]["beta"] == 1e-3
    assert ["base", "tiny flux"] in told["choices"]["generator"]


def test_treatments_pair_the_same_prompt_and_seed(engineer: TestClient, workspace: Workspace) -> None:
    shown = engineer.get("/api/treat/treatments/t1").json()
    assert len(shown["pairs"]) == 4 and shown["judged"]["mean_confidence"]["ratio"] == 0.41
    with workspace.catalog(read_only=True) as catalog:
        for pair in shown["pairs"]:
            before, after = catalog.images.get(pair["before"]), catalog.images.get(pair["after"])
            assert (before.generator_id, after.generator_id) == ("base", "treated")
            assert (
                (before.prompt, before.seed) == (after.prompt, after.seed) == (pair["prompt"], pair["seed"])
            )
    (listed,) = engineer.get("/api/treat/overview").json()["treatments"]
    assert listed["treated"] == "treated flux" and listed["ratios"] == {"mean_confidence": 0.41}
    assert engineer.get("/api/treat/treatments/t1/curves").json() == {}


def test_the_lora_comes_with_a_model_card(engineer: TestClient, workspace: Workspace, tmp_path: Path) -> None:
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    figure = {"before": 0.2, "after": 0.1, "ratio": 0.5, "interval": [0.4, 0.6]}
    with workspace.catalog() as catalog:
        catalog.generators.add(
            GeneratorVersion(
                id="t2flux",
                name="steadier hands",
                location="/models/flux",
                lora=workspace.checkpoints.publish(lora),
            )
        )
        result = {
            "kept": 30,
            "updates": 40,
            "stopped": "all updates done",
            "judged": {"mean_confidence": figure},
        }
        catalog.treatments.add(
            Treatment(
                id="t2",
                generator_id="base",
                detector_id="d1",
                treated_id="t2flux",
                config={"updates": 40},
                result=result,
            )
        )
        catalog.treatments.add(Treatment(id="t3", generator_id="base", detector_id="d1", result={"kept": 0}))
        catalog.commit()
    answer = engineer.get("/api/treat/treatments/t2/lora.zip")
    assert answer.headers["content-disposition"] == 'attachment; filename="steadier-hands-t2flux.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.read("pytorch_lora_weights.safetensors") == b"weights"
        assert json.loads(archive.read("treatment.json")) == {"updates": 40}
        card = archive.read("README.md").decode()
    assert "| mean confidence | 0.2000 | 0.1000 | 0.500 | 0.400 – 0.600 |" in card
    assert "Kept update 30 of 40" in card and "load_lora_weights" in card
    assert "/models/flux" not in card and "base_model" not in card, "a path is nobody else's business"
    assert engineer.get("/api/treat/treatments/t3/lora.zip").status_code == 404
    with workspace.catalog() as catalog:
        catalog.rounds.add(Round(id="r", recipe={}, stage="done", results={"judge": {"frequency": figure}}))
        judged = judged_of(catalog, replace(catalog.treatments.get("t3"), round_id="r"))
    assert judged == {"frequency": figure}, "a round's treatment is judged by a stage of its own"


def test_a_card_names_the_hub_s_base_and_keeps_names_on_their_line() -> None:
    base = GeneratorVersion(id="b", name="flux", location="owner/flux@main", licence="Apache-2.0")
    treated = GeneratorVersion(id="t", name="less |\n# broken", location=base.location)
    detector = DetectorVersion(id="d", name="doctor", checkpoint="c")
    card = model_card(Treatment(id="t", generator_id="b", detector_id="d"), {}, base, treated, detector)
    assert card.startswith("---\nbase_model: owner/flux\nlicense: apache-2.0\n")
    assert "# less \\| # broken\n" in card and 'from_pretrained("owner/flux")' in card
    assert "| not judged |" in card and "comfyui_lora.safetensors" in card


@pytest.mark.parametrize(
    ("reader", "code"),
    [
        ("", 'pipeline.load_lora_weights("FOLDER OF THIS FILE")'),
        ("SanaPipeline.load_lora_weights", 'pipeline.load_lora_weights("FOLDER OF THIS FILE")'),
        ("BriaTransformer2DModel.load_lora_adapter", "denoiser.load_lora_adapter("),
        ("peft (inject_adapter_in_model and …)", "LoraConfig(r=3, lora_alpha=6, target_modules=layers)"),
    ],
)
def test_a_card_says_what_reads_the_lora(reader: str, code: str) -> None:
    version = GeneratorVersion(id="b", name="base", location="/models/base")
    detector = DetectorVersion(id="d", name="doctor", checkpoint="c")
    config = {"lora": {"rank": 3, "alpha": 6.0}}
    found = Treatment(id="t", generator_id="b", detector_id="d", config=config, result={"reader": reader})
    card = model_card(found, {}, version, version, detector)
    assert f"`{reader or 'load_lora_weights'}`" in card
    block = card.partition("```python\n")[2].partition("```")[0]
    assert code in block and compile(block, "card", "exec")


def test_a_picture_that_a_page_is_about_to_ask_for_is_still_there(
    engineer: TestClient, workspace: Workspace
) -> None:
    run = runs.request_run(workspace, runs.TREATMENT, TreatmentRun(generator="base"), "eve").args["run"]
    blobs = workspace.blobs.put_many([f"picture {number}".encode() for number in range(9)])
    at = f"/api/treat/runs/{run}"
    for step, blob in enumerate(blobs):
        save_samples(workspace, run, step, [{"prompt": "a hand", "before": blobs[0], "after": blob}])
    assert engineer.get(f"{at}/samples").json()["samples"][0]["after"] == blobs[-1]
    assert engineer.get(f"{at}/pictures/{blobs[-2]}").content == b"picture 7"
    assert engineer.get(f"{at}/pictures/{blobs[0]}").status_code == 200
    assert engineer.get(f"{at}/pictures/{blobs[1]}").status_code == 404, "nobody asks for it any more"
    assert engineer.get(f"{at}/pictures/{'0' * 64}").status_code == 404


def test_prompts_are_drawn_with_and_without_a_treatment(engineer: TestClient, workspace: Workspace) -> None:
    at = "/api/treat/treatments/t1/draw"
    job = engineer.post(at, json={"text": "a drawn hand, number 1\n\n a dog ", "seeds": 2}).json()["job"]
    assert engineer.get(f"{at}/{job}").json() == {"state": "queued", "message": "", "pairs": []}
    with workspace.catalog() as catalog:
        assert catalog.jobs.get(job).args["prompts"] == ["a drawn hand, number 1", "a dog"]
        catalog.jobs.claim(job, "w")
        catalog.jobs.finish(job, "succeeded", {"pairs": 1})
        catalog.commit()
    (held,) = engineer.get(f"{at}/{job}").json()["pairs"]
    assert held["prompt"] == "a drawn hand, number 1", "held-out images of an asked prompt are an answer"
    with workspace.catalog() as catalog:
        held_out = [one for one in catalog.images.find() if one.prompt == "a drawn hand, number 1"]
        catalog.images.add_many(
            replace(one, id=f"c{one.id}", purpose=images.COMPARED, seed=70) for one in held_out
        )
        catalog.commit()
    pairs = engineer.get(f"{at}/{job}").json()["pairs"]
    assert {(one["prompt"], one["seed"]) for one in pairs} == {
        (held["prompt"], held["seed"]),
        (held["prompt"], 70),
    }
    shown = engineer.get("/api/treat/treatments/t1").json()["pairs"]
    assert shown and all(one["seed"] != 70 for one in shown), "nor the other way round"
    assert engineer.post(at, json={"text": " \n"}).status_code == 422
    many = engineer.post(at, json={"text": "\n".join(map(str, range(20))), "seeds": 2})
    assert many.status_code == 422 and "at most 24 pairs" in many.json()["error"]
    other = jobs.request_job(workspace, "backup", {}).id
    assert engineer.get(f"{at}/{other}").status_code == 404


def test_the_strip_of_looks_is_shown_with_what_collapsed(engineer: TestClient, workspace: Workspace) -> None:
    pixels = np.full((24, 24, 3), 90, np.uint8)
    looks = [
        {"update": update, "images": [workspace.blobs.put(thumbnail(pixels))], "mean_confidence": 0.1}
        for update in (0, 20, 40)
    ]
    workspace.job_files.put("run-strip", "looks.json", {"prompts": ["a hand"], "looks": looks})
    readings: list[dict[str, Any]] = [
        {"update": 20, "breaches": [], "values": {}},
        {"update": 40, "breaches": ["detail 0.5 is outside 0.8…1.25"], "values": {}},
    ]
    result = {"run": "run-strip", "kept": 20, "updates": 40, "stopped": "the guard", "looks": readings}
    with workspace.catalog() as catalog:
        catalog.treatments.add(Treatment(id="strip", generator_id="base", detector_id="d1", result=result))
        catalog.commit()
    assert engineer.get("/api/treat/treatments/strip").json()["strip"] is True
    answer = engineer.get("/api/treat/treatments/strip/strip.png")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    shown = np.asarray(PilImage.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)
    framed = (np.abs(shown - np.array(PALETTE[0])).sum(-1) < 30).nonzero()[1]
    # Only the third column of 192 pixels, the collapse, has a frame.
    assert framed.size and framed.min() > 2 * 192
    assert engineer.get("/api/treat/treatments/t1/strip.png").status_code == 404
