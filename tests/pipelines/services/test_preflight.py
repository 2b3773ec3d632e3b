"""What a snapshot would hold, what may begin, and what it would need."""

import json
from pathlib import Path

import pytest

from dataengine.diagnosis.config import DetectorConfig
from dataengine.errors import ConfigRefused, ModelRefused
from dataengine.records import DetectorVersion, SnapshotItem
from dataengine.treatment.tuning.estimate import Estimate, training_step
from dataengine.treatment.tuning.moments import Peak
from pipelines.jobs import estimate as job_estimate
from pipelines.jobs.estimate import judge_memory
from pipelines.services import preflight
from pipelines.services.preflight import require
from pipelines.services.training_preview import by_category, changes
from storage.opening import create_workspace


def item(image: str, target: str | None, kind: str = "true", category: str | None = None) -> SnapshotItem:
    confidence = 0.9 if target == "sure" else 0.1
    return SnapshotItem(
        image_id=image,
        image_sha256=image,
        kind=kind,  # type: ignore[arg-type]
        target=target,
        category=category,
        max_confidence=confidence,
    )


def test_categories_count_what_shows_an_artifact() -> None:
    rows = [
        item("a", "drawn", category="hand"),
        item("b", None, category="hand"),
        item("c", "sure", "pseudo", "hand"),
        item("d", "unsure", "pseudo", "mug"),
        item("e", None, "real"),
    ]
    assert by_category(rows) == [
        {"category": "hand", "positive": 2, "negative": 1},
        {"category": "mug", "positive": 0, "negative": 1},
        {"category": "–", "positive": 0, "negative": 1},
    ]


def test_changes_tell_new_gone_and_relabelled() -> None:
    before = [item("a", None), item("b", "x"), item("c", None)]
    after = [item("b", "y"), item("c", None), item("d", None)]
    assert changes(before, after) == {"new": 1, "gone": 1, "relabelled": 1, "same": 1}


def test_what_does_not_fit_says_which_setting_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    estimate = Estimate(
        weights_bytes=10 * 10**9, activations_bytes=4 * 10**9, flops=1e9, calls=10, saved_bytes=0
    )
    monkeypatch.setattr(job_estimate, "free_memory", lambda device: (16 * 10**9, 24 * 10**9))
    peaks = (Peak(estimate.peak_bytes), None)
    assert judge_memory("cpu", estimate, 100, lambda: "", peaks)["verdict"] == "good"
    monkeypatch.setattr(job_estimate, "free_memory", lambda device: (15 * 10**9, 24 * 10**9))
    told = judge_memory("cpu", estimate, 100, lambda: "Less is needed with: batch 2.", peaks)
    assert told["verdict"] == "bad" and told["text"].startswith(
        "Not enough memory. Peak memory about 14.00 GB"
    )
    assert told["text"].endswith("Less is needed with: batch 2.")


def test_the_first_objection_is_the_sentence() -> None:
    good = preflight.Check(name="disk", verdict="good", text="room")
    bad = preflight.Check(name="weights", verdict="bad", text="there are none")
    require([good])
    with pytest.raises(ConfigRefused, match="there are none"):
        require([good, bad])


def test_memory_is_told_free_of_total() -> None:
    free, total = job_estimate.free_memory("cpu")
    assert 0 < free <= total


def test_a_training_step_grows_with_the_batch() -> None:
    sizes = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
    config = DetectorConfig(segformer=sizes, size=64)
    small, large = training_step(config, 2), training_step(config, 8)
    assert small.weights_bytes == large.weights_bytes > 0
    assert 2.5 < large.activations_bytes / small.activations_bytes < 4.5
    assert large.flops == pytest.approx(4 * small.flops, rel=0.05)


def test_a_detector_whose_weights_are_gone_is_named_and_no_path_of_the_server_is(tmp_path: Path) -> None:
    workspace = create_workspace(tmp_path / "w")
    check = preflight.detector_check(workspace, DetectorVersion(id="d", name="hands", checkpoint="0" * 64))
    workspace.close()
    assert check.verdict == "bad" and check.text.startswith("The weights of hands are gone")
    assert str(tmp_path) not in check.text


def test_detectors_without_a_gradient_are_refused_by_what_they_are(tmp_path: Path) -> None:
    for file, what in (("dynamics.json", "score dynamics"), ("highlighter.json", "flaw highlighter")):
        folder = tmp_path / file
        folder.mkdir()
        (folder / file).write_text("{}")
        with pytest.raises(ModelRefused, match=f"{what}, which has no gradients"):
            preflight.refuse_other_channels(folder, "mine")


def test_pipelines_without_lora_are_sent_to_refine(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    with pytest.raises(ModelRefused, match=r"takes no LoRA.*clinic refine"):
        preflight.pipeline_class(tmp_path)


def test_a_pipeline_names_its_class(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert preflight.pipeline_class(tmp_path) == "FluxPipeline"
