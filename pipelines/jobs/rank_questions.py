"""Rank yes/no questions by how well they separate flawed from clean images (ASCED, Sec. 4.2), on labelled
validation images.

Input: a VQA model, the paper's questions, images with labels and artifact-free real ones. Output: the
questions
by accuracy. Cost: one answer for each question and image; answers are cached.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dataengine.curation.questions import select_questions
from dataengine.curation.yes_no import score_questions
from pipelines.detectors.dataset import StoredSamples
from pipelines.detectors.evaluation import evaluation_sets
from pipelines.detectors.yes_no_question import bind_question, open_vqa_model
from pipelines.runtime.context import Context
from pipelines.runtime.round_data import recipe_of

SETS = ("validation", "validation_real")


def rank_questions(
    context: Context, round_id: str, model: str, numbers: Sequence[int] = (), limit: int = 200
) -> list[dict[str, Any]]:
    """The questions, best first, each with its accuracy, on at most `limit` images.

    Raises `ConfigRefused` for a model that answers no questions, and without flawed and clean validation
    images.
    """
    chosen = select_questions(numbers)
    images, flawed = _images_of_known_truth(context, round_id, limit)
    opened = open_vqa_model(context, model, chosen[0])
    verdicts = {}
    for index, question in enumerate(chosen):
        context.report(index, len(chosen), f"question {question.number}")
        detector = bind_question(context, opened, model, question)
        verdicts[question] = [detector.verdicts(image[None])[0] for image in images]
    return [
        {
            "number": score.question.number,
            "question": score.question.text,
            "yes_means": score.question.yes_means,
            "accuracy": score.accuracy,
            "found": score.found,
            "cleared": score.cleared,
            "unclear": score.unclear,
            "images": len(images),
        }
        for score in score_questions(verdicts, flawed)
    ]


def _images_of_known_truth(
    context: Context, round_id: str, limit: int
) -> tuple[list[np.ndarray], list[bool]]:
    """Validation images, uint8 HWC, and whether each is flawed; at most `limit // 2` of either kind."""
    sets = evaluation_sets(context, recipe_of(context, round_id).publish, round_id)
    samples = StoredSamples(context.workspace, [item for name in SETS for item in sets.get(name, [])])
    by_kind: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for index in range(len(samples)):
        sample = samples.sample(index)
        kind = sample.facts().positive
        if len(by_kind[kind]) < limit // 2:
            by_kind[kind].append(sample.image)
    images = [image for kind in (True, False) for image in by_kind[kind]]
    return images, [kind for kind in (True, False) for _ in by_kind[kind]]
