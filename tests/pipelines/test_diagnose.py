"""Diagnose: one prediction an image, maps as they were seen, and what is uncertain."""

import numpy as np
import pytest

from pipelines.diagnose import diagnose, predict, uncertainty
from pipelines.pictures import read
from pipelines.steps import HARD, SURVEY, images_of
from tests.fakes import FIRST, TinyDetector
from tests.pipelines.conftest import Played


def test_uncertainty_is_highest_at_one_half() -> None:
    assert uncertainty(np.full((4, 4), 0.5, np.float32)) == 1
    assert uncertainty(np.array([[0.0, 1.0]], np.float32)) == 0
    assert uncertainty(np.array([[0.5, 0.0]], np.float32)) == pytest.approx(0.5)


def test_keeps_what_the_detector_saw(played: Played) -> None:
    images = images_of(played.context, played.round_id, SURVEY)
    found = predict(played.context, "first", images, 8)
    assert [each.image_id for each in found] == [image.id for image in images]
    image, prediction = images[3], found[3]
    seen = TinyDetector(FIRST).find_artifacts(read(played.context.workspace, image))
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
    assert diagnose(played.context, played.round_id)["detector"] == played.results["promote"]["champion"]
