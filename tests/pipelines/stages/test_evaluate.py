"""Evaluate: both detectors on the same sets, figures kept with them."""

import pytest

from pipelines.config import PublishConfig
from pipelines.detectors.dataset import target_of
from pipelines.detectors.training_data import read_training_data
from pipelines.detectors.training_set import labelled_items
from pipelines.runtime.images import read_pixels
from pipelines.stages.evaluate import STAGE
from tests.fakes import FIRST, TinyDetector
from tests.pipelines.conftest import Played


def test_measures_champion_and_candidate_alike(played: Played) -> None:
    result = played.results["evaluate"]
    assert (result["before"], result["after"]) == ("first", played.results["retrain"]["detector"])
    assert result["champion"].keys() == result["candidate"].keys() >= {"validation", "validation_real"}
    assert result["candidate"]["validation"]["mse"] < result["champion"]["validation"]["mse"]


def test_the_error_is_what_a_hand_computes(played: Played) -> None:
    context = played.context
    data = read_training_data(context.workspace, round_id=played.round_id, splits=("validation",))
    items = labelled_items(context.workspace.blobs, data, "validation", PublishConfig())
    with context.workspace.catalog(read_only=True) as catalog:
        images = {image.id: image for image in catalog.images.get_many([item.image_id for item in items])}
    errors = []
    for item in items:
        image = images[item.image_id]
        seen = TinyDetector(FIRST).find_artifacts(read_pixels(context.workspace, image))
        errors.append(((target_of(context.workspace, item, image) - seen) ** 2).mean())
    expected = sum(errors) / len(errors)
    assert played.results["evaluate"]["champion"]["validation"]["mse"] == pytest.approx(expected, rel=1e-4)


def test_figures_are_kept_with_the_detector(played: Played) -> None:
    with played.context.workspace.catalog(read_only=True) as catalog:
        metrics = catalog.detectors.get(played.results["retrain"]["detector"]).metrics
    assert metrics["validation"] == played.results["evaluate"]["candidate"]["validation"]


def test_misses_stand_beside_every_error(played: Played) -> None:
    result = played.results["evaluate"]
    for who in ("champion", "candidate"):
        for found in result[who].values():
            own, half = found["operating"], found["at_half"]
            assert own["flawed"] + own["clean"] == found["images"] and half["flagged"] == 0.5
            assert (own["miss"] is None) == (own["flawed"] == 0)
        measured = result[who]["validation"]
        assert measured["operating"]["intervals"].keys() == {"miss", "false_alarm"}
    assert result["champion"]["validation"]["operating"]["flagged"] != 0.5, "chosen before it is measured"
    said = STAGE.found(result)
    before, after = (result[who]["validation"]["operating"]["miss"] for who in ("champion", "candidate"))
    assert f"misses {before:.4g} → {after:.4g}" in said and "false alarms" in said
    old = {"champion": {"validation": {"mse": 0.2}}, "candidate": {"validation": {"mse": 0.1}}}
    assert STAGE.found(old) == "Squared error on validation 0.2 → 0.1"
