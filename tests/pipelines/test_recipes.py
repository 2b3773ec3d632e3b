"""Recipes: complete, valid when stored and read again, refused by name."""

import pytest

from dataengine.errors import NotFound
from pipelines.config import RoundRecipe
from pipelines.recipes import CLINIC_CATEGORIES, RECIPES, named


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_storage(name: str) -> None:
    recipe = named(name, seed=3)
    assert RoundRecipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert recipe.name == name


@pytest.mark.parametrize("name", RECIPES)
def test_a_seed_reaches_every_part(name: str) -> None:
    first, second = named(name, 1), named(name, 2)
    for read in (
        lambda recipe: recipe.generate.seed,
        lambda recipe: recipe.mine.seed,
        lambda recipe: recipe.train_teacher.seed,
        lambda recipe: recipe.retrain.seed,
        lambda recipe: recipe.treat.tuning.seed,
    ):
        assert (read(first), read(second)) == (1, 2)


def test_the_demo_asks_for_no_more_captions_than_the_world_has() -> None:
    from dataengine.clinic.world import CATEGORIES, all_prompts

    recipe = named("demo")
    assert set(recipe.generate.categories) == set(CLINIC_CATEGORIES) == set(CATEGORIES)
    config = recipe.write_prompts
    used = recipe.generate.prompts_per_category + config.judge_per_category
    for category in CATEGORIES:
        free = len(all_prompts(category)) - used
        assert free >= max(config.hard_per_category, config.treat_per_category)


def test_an_unknown_name_is_told_what_there_is() -> None:
    with pytest.raises(NotFound, match=r"no recipe 'huge'.*demo, cpu-smoke"):
        named("huge")


def test_a_stored_recipe_may_name_the_second_detector_as_before() -> None:
    stored = named("fakes").model_dump(mode="json")
    assert stored["mine"].pop("rival") == "", "written under the name that older workers read"
    for name in ("rival", "second_detector"):
        recipe = RoundRecipe.model_validate(stored | {"mine": {**stored["mine"], name: "d2"}})
        assert recipe.mine.second_detector == "d2"
        assert recipe.model_dump(mode="json")["mine"]["rival"] == "d2"
