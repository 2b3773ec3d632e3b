"""Generate: every prompt and seed once, splits by group, missing ones only, judging by two generators."""

from collections import Counter

import pytest

from dataengine.errors import ConfigRefused
from pipelines.context import Context
from pipelines.generate import generate, run_shard, shards
from pipelines.steps import HARD, JUDGE, SURVEY, images_of, prompts_of, recipe_of
from tests.pipelines.conftest import Played


def test_draws_every_prompt_with_its_seeds(played: Played) -> None:
    config = recipe_of(played.context, played.round_id).generate
    prompts = prompts_of(played.context, played.round_id, SURVEY)
    images = images_of(played.context, played.round_id, SURVEY)
    assert len(prompts) == len(config.categories) * config.prompts_per_category
    wanted = dict.fromkeys({prompt.text for prompt in prompts}, config.seeds_per_prompt)
    assert Counter(image.prompt for image in images) == wanted
    assert len({(image.prompt, image.seed) for image in images}) == len(images)
    assert all(image.settings["steps"] == config.sampling.steps and image.thumbnail for image in images)


def test_drawing_again_adds_nothing(played: Played) -> None:
    before = len(images_of(played.context, played.round_id, SURVEY, HARD, JUDGE))
    again = generate(played.context, played.round_id, HARD)
    assert again == played.results["generate_hard"]
    assert len(images_of(played.context, played.round_id, SURVEY, HARD, JUDGE)) == before


def test_a_broken_shard_is_completed(fresh: tuple[Context, str]) -> None:
    context, round_id = fresh
    whole = shards(context, round_id)
    part = dict(whole[0], stop=3)
    assert run_shard(context, round_id, part)["drawn"] == 3
    assert run_shard(context, round_id, whole[0])["drawn"] == whole[0]["stop"] - 3
    assert run_shard(context, round_id, whole[0])["drawn"] == 0


def test_one_prompt_and_seed_is_one_group_in_one_split(played: Played) -> None:
    images = images_of(played.context, played.round_id, SURVEY, HARD, JUDGE)
    splits: dict[str, set[str]] = {}
    for image in images:
        splits.setdefault(image.group, set()).add(image.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {image.split for image in images} == {"train", "validation"}


def test_judging_draws_with_the_base_and_the_treated_one(played: Played) -> None:
    treated = played.results["treat"]
    drawn = Counter(image.generator_id for image in images_of(played.context, played.round_id, JUDGE))
    assert set(drawn) == {treated["generator"], treated["treated"]}
    assert len(set(drawn.values())) == 1


def test_an_unknown_generator_is_refused(fresh: tuple[Context, str]) -> None:
    context, round_id = fresh
    with context.workspace.catalog() as catalog:
        from dataclasses import replace

        row = catalog.rounds.get(round_id)
        recipe = {**row.recipe, "generate": {**row.recipe["generate"], "generators": ["nobody"]}}
        catalog.rounds.add(replace(row, id="other", recipe=recipe))
        catalog.commit()
    with pytest.raises(ConfigRefused, match=r"nobody.*squares"):
        shards(context, "other")
