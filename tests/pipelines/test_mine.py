"""Mine: a balanced queue within the budget, filled once."""

from pipelines.mine import mine
from pipelines.steps import HARD, SURVEY, images_of, recipe_of
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
