"""Categorize: a VQA model assigns each image a category.

Input: the round's survey images. Output: the model's answer and confidence for each, and the images'
category. Cost: one question per image; answered images are skipped. Without a model, an image gets its
prompt's category.
"""

from collections import Counter
from collections.abc import Sequence

from dataengine.records.images import SURVEY
from pipelines.runtime.context import Context, Result
from pipelines.runtime.round_data import images_of, prompts_of, recipe_of
from pipelines.runtime.shards import Shard, shard_bounds
from pipelines.selections.categorize import categorize, require_answers, vqa_opener
from pipelines.selections.diagnose import sum_unreadable
from pipelines.stages.stage import Sharded, Stage, counted


def shards(context: Context, round_id: str) -> list[Shard]:
    """Consecutive parts of the survey images."""
    size = recipe_of(context, round_id).categorize.shard
    count = len(images_of(context, round_id, SURVEY))
    return [{"start": start, "stop": stop} for start, stop in shard_bounds(count, size)]


def run_shard(context: Context, round_id: str, shard: Shard) -> Result:
    """Answer one part."""
    part = images_of(context, round_id, SURVEY)[shard["start"] : shard["stop"]]
    config = recipe_of(context, round_id).categorize
    known = {prompt.text: prompt.category for prompt in prompts_of(context, round_id, SURVEY)}
    written = {image.id: category for image in part if (category := known.get(image.prompt))}
    answer = categorize(context, part, config, written, vqa_opener(context, config))
    if config.model:
        require_answers(config.model, answer["asked"] - answer.get("unreadable", 0), answer["answered"])
    return answer


def finish(context: Context, round_id: str, answers: Sequence[Result]) -> Result:
    """How many images each category has."""
    counts = Counter(image.category or "" for image in images_of(context, round_id, SURVEY))
    return {
        "images": sum(answer["images"] for answer in answers),
        "categories": dict(sorted(counts.items())),
        **sum_unreadable(answers),
    }


STAGE = Stage(
    name="categorize",
    title="categorize images",
    part="survey",
    section="categorize",
    takes="survey images",
    found=lambda result: counted(result["categories"]),
    work=Sharded(shards=shards, run_shard=run_shard, finish=finish),
)
