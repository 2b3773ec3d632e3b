"""Categorize: a VQA model assigns each image a category.

Input: the round's survey images. Output: the model's answer and confidence for each, and the images'
category. Cost: one question per image; answered images are skipped. Without a model, an image gets its
prompt's category.
"""

from collections import Counter
from collections.abc import Sequence

from dataengine.errors import ServiceAbsent
from dataengine.records import CategoryAnswer, Image
from dataengine.records.images import SURVEY
from pipelines.detectors.yes_no_question import ANSWERS
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.images import batches_of_equal_size, read_stacked
from pipelines.runtime.round_data import images_of, prompts_of, recipe_of
from pipelines.runtime.shards import Shard, shard_bounds
from pipelines.stages.stage import Sharded, Stage, counted

PROMPT = "prompt"
"""The model name of categories taken from prompts."""


def shards(context: Context, round_id: str) -> list[Shard]:
    """Consecutive parts of the survey images."""
    size = recipe_of(context, round_id).categorize.shard
    count = len(images_of(context, round_id, SURVEY))
    return [{"start": start, "stop": stop} for start, stop in shard_bounds(count, size)]


def run_shard(context: Context, round_id: str, shard: Shard) -> Result:
    """Answer one part."""
    part = images_of(context, round_id, SURVEY)[shard["start"] : shard["stop"]]
    open_ones = [image for image in part if image.category is None]
    model = recipe_of(context, round_id).categorize.model
    if open_ones and model:
        _ask(context, round_id, open_ones, model)
    elif open_ones:
        _take_from_prompts(context, round_id, open_ones)
    return {"images": len(part), "asked": len(open_ones)}


def finish(context: Context, round_id: str, answers: Sequence[Result]) -> Result:
    """How many images each category has."""
    counts = Counter(image.category or "" for image in images_of(context, round_id, SURVEY))
    return {"images": sum(answer["images"] for answer in answers), "categories": dict(sorted(counts.items()))}


def _ask(context: Context, round_id: str, images: Sequence[Image], model: str) -> None:
    config = recipe_of(context, round_id).categorize
    vqa = context.models.open_vqa(model, config.vqa, context.workspace.path / ANSWERS)
    done = answered = 0
    for group in batches_of_equal_size(images, config.batch):
        context.report(done, len(images), "categorizing images")
        answers = vqa.categories(read_stacked(context.workspace, group))
        _keep(
            context,
            [
                CategoryAnswer(
                    image_id=image.id, model=model, category=category, confidence=float(confidence)
                )
                for image, (category, confidence) in zip(group, answers, strict=True)
                if category
            ],
        )
        done += len(group)
        answered += sum(bool(category) for category, _ in answers)
    if not answered:
        raise ServiceAbsent(
            f"{model} gave no usable answer about any of {len(images)} images; see the worker's log. Change "
            "the settings or the model, then run the stage again"
        )


def _take_from_prompts(context: Context, round_id: str, images: Sequence[Image]) -> None:
    known = {prompt.text: prompt.category for prompt in prompts_of(context, round_id, SURVEY)}
    _keep(
        context,
        [
            CategoryAnswer(image_id=image.id, model=PROMPT, category=category, confidence=1.0)
            for image in images
            if (category := known.get(image.prompt))
        ],
    )


def _keep(context: Context, answers: Sequence[CategoryAnswer]) -> None:
    fail_point("categorize:answers")
    with context.workspace.catalog() as catalog:
        catalog.images.set_categories(answers)
        catalog.commit()


STAGE = Stage(
    name="categorize",
    title="categorize images",
    part="survey",
    section="categorize",
    takes="survey images",
    found=lambda result: counted(result["categories"]),
    work=Sharded(shards=shards, run_shard=run_shard, finish=finish),
)
