"""Assign categories to images that have none: by a VQA model, or as their prompts were written."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from dataengine.errors import ServiceAbsent
from dataengine.records import CategoryAnswer, Image
from pipelines.config import CategorizeConfig
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.images import batches_of_equal_size, read_readable
from pipelines.runtime.models import ANSWERS, Categorizer
from pipelines.selections.diagnose import unreadable_images

PROMPT = "prompt"
"""The model name of categories taken from prompts."""


OpenVqa = Callable[[], Categorizer]


def vqa_opener(context: Context, config: CategorizeConfig) -> OpenVqa:
    """Opens the configured VQA model when it is first needed, once."""
    return cache(lambda: context.models.open_vqa(config.model, config.vqa, context.workspace.path / ANSWERS))


def categorize(
    context: Context,
    images: Sequence[Image],
    config: CategorizeConfig,
    written: Mapping[str, str],
    open_vqa: OpenVqa,
) -> Result:
    """Give the images without a category the model's answer, or, without a model, that of `written` by id.

    A category that came with the image, or was given earlier, stays. The result counts the images, those
    without a category before, and those that got one; images whose files cannot be read are named in it.
    """
    open_ones = [image for image in images if image.category is None]
    unreadable: list[str] = []
    answered = 0
    if open_ones and config.model:
        answered = _ask(context, open_ones, config, open_vqa(), unreadable)
    elif open_ones:
        answered = _take_from_prompts(context, open_ones, written)
    return {
        "images": len(images),
        "asked": len(open_ones),
        "answered": answered,
        **unreadable_images(unreadable),
    }


def require_answers(model: str, asked: int, answered: int) -> None:
    """Raise `ServiceAbsent` when a model answered nothing about all of these images."""
    if asked and not answered:
        raise ServiceAbsent(
            f"{model} gave no usable answer about any of {asked} images; see the worker's log. Change "
            "the settings or the model, then run this again"
        )


def _ask(
    context: Context,
    images: Sequence[Image],
    config: CategorizeConfig,
    vqa: Categorizer,
    unreadable: list[str],
) -> int:
    done = answered = 0
    for group in batches_of_equal_size(images, config.batch):
        context.report(done, len(images), "categorizing images")
        readable, pixels = read_readable(context.workspace, group, unreadable)
        answers = vqa.categories(np.stack(pixels)) if readable else []
        _store(
            context,
            [
                CategoryAnswer(
                    image_id=image.id, model=config.model, category=category, confidence=float(confidence)
                )
                for image, (category, confidence) in zip(readable, answers, strict=True)
                if category
            ],
        )
        done += len(group)
        answered += sum(bool(category) for category, _ in answers)
    return answered


def _take_from_prompts(context: Context, images: Sequence[Image], written: Mapping[str, str]) -> int:
    answers = [
        CategoryAnswer(image_id=image.id, model=PROMPT, category=written[image.id], confidence=1.0)
        for image in images
        if image.id in written
    ]
    _store(context, answers)
    return len(answers)


def _store(context: Context, answers: Sequence[CategoryAnswer]) -> None:
    fail_point("categorize:answers")
    with context.workspace.catalog() as catalog:
        catalog.images.set_categories(answers)
        catalog.commit()
