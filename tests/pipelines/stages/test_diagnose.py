"""Diagnose: one prediction an image, maps as they were seen, and what is uncertain."""

from pathlib import Path

import numpy as np
import pytest

from dataengine.errors import ModelRefused
from dataengine.records.images import HARD, SURVEY
from pipelines.detectors.predict import mean_uncertainty, predict
from pipelines.runtime.context import Context
from pipelines.runtime.images import read_pixels
from pipelines.runtime.open_detector import open_detector
from pipelines.runtime.round_data import images_of
from tests.fakes import FIRST, TinyDetector, with_methods
from tests.pipelines.conftest import Played, play, run_one


def test_uncertainty_is_highest_at_one_half() -> None:
    assert mean_uncertainty(np.full((4, 4), 0.5, np.float32)) == 1
    assert mean_uncertainty(np.array([[0.0, 1.0]], np.float32)) == 0
    assert mean_uncertainty(np.array([[0.5, 0.0]], np.float32)) == pytest.approx(0.5)


def test_keeps_what_the_detector_saw(played: Played) -> None:
    images = images_of(played.context, played.round_id, SURVEY)
    found = predict(played.context, "first", images, 8)
    assert [each.image_id for each in found] == [image.id for image in images]
    image, prediction = images[3], found[3]
    seen = TinyDetector(FIRST).find_artifacts(read_pixels(played.context.workspace, image))
    kept = played.context.workspace.maps.get(prediction.map_ref or "")
    assert np.abs(kept / 255 - seen).max() <= 0.5 / 255 + 1e-6
    assert (prediction.max, prediction.mean) == (pytest.approx(seen.max()), pytest.approx(seen.mean()))


def test_counts_alarms_and_does_not_look_twice(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    result = played.results["diagnose_hard"]
    images = images_of(played.context, played.round_id, HARD)
    found = predict(played.context, "first", images, 8)
    assert result["suspected"] == sum(each.max >= 0.5 for each in found)
    assert result["mean_max"] == pytest.approx(np.mean([each.max for each in found]))
    monkeypatch.setattr(TinyDetector, "find_artifacts", None)
    assert predict(played.context, "first", images, 8) == found


def test_names_the_champion_of_its_time(played: Played) -> None:
    assert played.results["diagnose"]["detector"] == "first"
    assert (
        run_one(played.context, played.round_id, "diagnose")["detector"]
        == played.results["promote"]["champion"]
    )


def test_what_was_seen_before_an_error_is_kept(fresh: tuple[Context, str]) -> None:
    """The next call looks at the rest only."""
    context, round_id = fresh
    play(context, round_id, until="diagnose")
    images = images_of(context, round_id, SURVEY)
    looks: list[int] = []

    def faulty(detector: TinyDetector, pixels: list[np.ndarray], batch: int) -> list[np.ndarray]:
        looks.append(len(pixels))
        if len(looks) == 3:
            raise ModelRefused("no numbers")
        return context.models.artifact_maps(detector, pixels, batch)

    broken = Context(context.workspace, with_methods(context.models, artifact_maps=faulty))
    with pytest.raises(ModelRefused, match="no numbers"):
        predict(broken, "first", images, 2)
    with context.workspace.catalog(read_only=True) as catalog:
        kept = len(catalog.predictions.of("first"))
    assert 2 <= kept <= 4
    found = predict(broken, "first", images, 2)
    assert len(found) == len(images) and sum(looks[3:]) == len(images) - kept


def test_a_detector_is_opened_once_for_all_shards(played: Played) -> None:
    opens: list[Path] = []

    def counting(folder: Path) -> TinyDetector:
        opens.append(folder)
        return TinyDetector.open(folder)

    context = Context(played.context.workspace, with_methods(played.context.models, open_detector=counting))
    assert open_detector(context, "first") is open_detector(context, "first")
    other = open_detector(context, played.results["promote"]["champion"])
    assert other is not open_detector(context, "first") and len(opens) == 3, "only the last stays open"
