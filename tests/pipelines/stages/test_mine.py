"""Mine: a balanced queue within the budget, filled once."""

import pytest

from dataengine.curation.config import MiningConfig
from dataengine.curation.mining import MiningCandidate
from dataengine.records.images import HARD, SURVEY
from pipelines.runtime.round_data import images_of, recipe_of
from pipelines.stages import mine as stage
from pipelines.stages.mine import mine
from tests.pipelines.conftest import Played


def test_queues_hard_cases_within_the_budget(played: Played) -> None:
    result = played.results["mine"]
    assert 0 < result["queued"] <= recipe_of(played.context, played.round_id).mine.budget
    assert set(result["categories"]) <= {"hand", "face"}
    with played.context.workspace.catalog(read_only=True) as catalog:
        items = catalog.queue.of_round(played.round_id)
    images = {image.id: image for image in images_of(played.context, played.round_id, SURVEY, HARD)}
    assert all(item.image_id in images and item.reason for item in items)
    assert {images[item.image_id].split for item in items} == {"train", "validation"}
    priorities = [item.priority for item in items]
    assert priorities == sorted(priorities, reverse=True) and 0 < priorities[-1] <= priorities[0] <= 1


def test_the_queue_is_filled_once(played: Played) -> None:
    assert mine(played.context, played.round_id) == played.results["mine"]


def candidates_with(
    played: Played, monkeypatch: pytest.MonkeyPatch, config: MiningConfig
) -> list[MiningCandidate]:
    recipe = recipe_of(played.context, played.round_id).model_copy(update={"mine": config})
    monkeypatch.setattr(stage, "recipe_of", lambda context, round_id: recipe)
    return stage._candidates(played.context, played.round_id)


def test_further_looks_are_taken_only_where_they_have_a_say(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = candidates_with(played, monkeypatch, MiningConfig())
    assert plain and all(each.variance == each.disagreement == 0 for each in plain)
    config = MiningConfig(variance=1.0, disagreement=1.0, features="encoder")
    keen = candidates_with(played, monkeypatch, config)
    assert [each.image_id for each in keen] == [each.image_id for each in plain]
    assert all(each.variance > 0 for each in keen)
    assert any(each.disagreement > 0 for each in keen), "the round's own detectors differ from the first"
    for one, other in zip(plain, keen, strict=True):
        assert one.features is not None and other.features is not None and other.thumbnail is not None
        assert (len(one.features), len(other.features), len(other.thumbnail)) == (192, 3, 192)
