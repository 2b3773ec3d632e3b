"""Categorize: the model's answer becomes the category; without a model the prompt's does."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dataengine.errors import ServiceAbsent
from dataengine.records.images import SURVEY
from pipelines.runtime.context import Context
from pipelines.runtime.round_data import images_of, prompts_of
from pipelines.selections.categorize import PROMPT
from tests.fakes import Readers, category_of, with_methods
from tests.pipelines.conftest import Played, run_one


def test_every_survey_image_has_the_models_answer(played: Played) -> None:
    images = images_of(played.context, played.round_id, SURVEY)
    assert all(image.category == category_of(image.prompt) for image in images)
    with played.context.workspace.catalog(read_only=True) as catalog:
        answers = catalog.images.answers(images[0].id)
    assert [answer.confidence for answer in answers] == [0.9]
    assert sum(played.results["categorize"]["categories"].values()) == len(images)


def test_asking_again_asks_nobody(played: Played) -> None:
    def refuse(*asked: object) -> Readers:
        raise AssertionError("everything has its category")

    models = with_methods(played.context.models, open_vqa=refuse)
    again = run_one(Context(played.context.workspace, models), played.round_id, "categorize")
    assert again == played.results["categorize"]


def test_without_a_model_the_prompt_decides(fresh: tuple[Context, str]) -> None:
    context, round_id = fresh
    with context.workspace.catalog() as catalog:
        row = catalog.rounds.get(round_id)
        recipe = {**row.recipe, "categorize": {**row.recipe["categorize"], "model": ""}}
        catalog.rounds.add(replace(row, id="blind", recipe=recipe))
        catalog.commit()
    run_one(context, "blind", "generate")
    run_one(context, "blind", "categorize")
    written = {prompt.text: prompt.category for prompt in prompts_of(context, "blind", SURVEY)}
    images = images_of(context, "blind", SURVEY)
    assert images and all(image.category == written[image.prompt] for image in images)
    with context.workspace.catalog(read_only=True) as catalog:
        assert catalog.images.answers(images[0].id)[0].model == PROMPT


def test_a_model_that_stops_answering_loses_nothing_that_it_said(fresh: tuple[Context, str]) -> None:
    """The next run asks about the rest only."""
    context, round_id = fresh
    with context.workspace.catalog() as catalog:
        row = catalog.rounds.get(round_id)
        recipe = {**row.recipe, "categorize": {**row.recipe["categorize"], "batch": 2}}
        catalog.rounds.add(replace(row, id="patient", recipe=recipe))
        catalog.commit()
    run_one(context, "patient", "generate")
    asked: list[int] = []

    class Weary(Readers):
        def categories(self, images: np.ndarray) -> Sequence[tuple[str, float]]:
            asked.append(len(images))
            if len(asked) == 3:
                raise ServiceAbsent("the endpoint did not answer")
            return super().categories(images)

    weary = Context(context.workspace, with_methods(context.models, open_vqa=lambda *about: Weary()))
    with pytest.raises(ServiceAbsent):
        run_one(weary, "patient", "categorize")
    images = images_of(context, "patient", SURVEY)
    assert sum(image.category is not None for image in images) == sum(asked[:2]) == 4
    run_one(weary, "patient", "categorize")
    assert all(image.category for image in images_of(context, "patient", SURVEY))
    assert sum(asked[3:]) == len(images) - 4


def test_an_image_without_an_answer_is_asked_about_again(fresh: tuple[Context, str]) -> None:
    context, round_id = fresh
    run_one(context, round_id, "generate")

    class Silent(Readers):
        def categories(self, images: np.ndarray) -> Sequence[tuple[str, float]]:
            return [("", 0.0)] * len(images)

    class Halting(Readers):
        def categories(self, images: np.ndarray) -> Sequence[tuple[str, float]]:
            return [("", 0.0), *super().categories(images)[1:]]

    def with_reader(reader: Readers) -> Context:
        return Context(context.workspace, with_methods(context.models, open_vqa=lambda *about: reader))

    with pytest.raises(ServiceAbsent, match="no usable answer about any of"):
        run_one(with_reader(Silent()), round_id, "categorize")
    assert not any(image.category for image in images_of(context, round_id, SURVEY)), (
        "nothing is called other"
    )
    run_one(with_reader(Halting()), round_id, "categorize")
    left = [image for image in images_of(context, round_id, SURVEY) if not image.category]
    assert 0 < len(left) < len(images_of(context, round_id, SURVEY))
    run_one(context, round_id, "categorize")
    assert all(image.category for image in images_of(context, round_id, SURVEY))
