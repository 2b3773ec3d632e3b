"""Jobs on selections of images: predict maps, assign categories, mine, pseudo-label, without a round.

Input: the filter of the images, and settings. Output: rows of the catalog, and counts. Each is safe to kill:
what was stored stays, and the next run does the rest. Cost: that of the stage of the same name.
"""

from collections.abc import Sequence
from typing import Any

from dataengine.curation.config import MiningConfig
from dataengine.curation.hard_categories import scaled_to
from dataengine.curation.mining import choose_images
from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.errors import ConfigRefused
from dataengine.records import DetectorVersion, Image, QueueItem, threshold_of
from pipelines.config import DiagnoseConfig
from pipelines.detectors import yes_no_question
from pipelines.detectors.training_data import read_categories
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.selections.categorize import categorize, require_answers, vqa_opener
from pipelines.selections.config import CategorizationRun, DiagnosisRun, MiningRun, PseudoLabelRun
from pipelines.selections.diagnose import diagnose, sum_unreadable, summarise, unreadable_images
from pipelines.selections.domain import foreign_note
from pipelines.selections.hard_categories import judge_histograms
from pipelines.selections.mine import Mining, at_operating_point, find_candidates, queue_items
from pipelines.selections.pages import detector_of, selected, work_through
from pipelines.selections.pseudo_label import pseudo_label
from storage.queries.categories import histograms
from storage.queries.domains import elsewhere
from storage.queries.selections import (
    Conditions,
    count_by_category,
    count_of_selection,
    minable,
    most_telling,
    not_predicted_by,
    pseudo_labelable,
    uncategorised,
)

PAGE = DiagnoseConfig().shard
"""Images of one page; their maps are packed together, like those of a shard."""
MOST_CANDIDATES = 20_000
"""Flagged images among which mining chooses; of more, those with the most telling predictions."""
QUIET_PER_CHOICE = 20
"""Images below the threshold that are looked at for each one that is sampled at random."""
NO_ROUND = ""
"""The round of pseudo-labels that were made outside rounds."""


def diagnose_images(context: Context, run: DiagnosisRun) -> Result:
    """Predict the selected images that the detector has not seen.

    The result counts the images predicted now, `known` those predicted before. Raises `NotFound` for an empty
    selection and an unknown detector, `ConfigRefused` without any detector.
    """
    conditions, count = selected(context.workspace, run.images)
    version = detector_of(context, run.detector)

    def work(part: Context, page: list[Image]) -> Result:
        return diagnose(part, version.id, page, run.batch)

    answers = work_through(context, [*conditions, not_predicted_by(version.id)], PAGE, work)
    result = summarise(context, version.id, answers)
    done = result["images"] + result.get("unreadable", 0)
    return {
        "selected": count,
        "known": count - done,
        "name": version.name,
        **result,
        **_note(context, version, conditions, count),
    }


def categorize_images(context: Context, run: CategorizationRun) -> Result:
    """Give every selected image without a category one: the model's, or that of the prompt it was made from.

    A category that came with the images stays. Raises `NotFound` for an empty selection, `ServiceAbsent` when
    the model gives no usable answer, `ConfigRefused` when there is neither a model nor any category.
    """
    config = run.categorize
    conditions, count = selected(context.workspace, run.images)
    open_vqa = vqa_opener(context, config)

    def work(part: Context, page: list[Image]) -> Result:
        written = {} if config.model else read_categories(part.workspace, None, page)
        return categorize(part, page, config, written, open_vqa)

    answers = work_through(context, [*conditions, uncategorised()], config.shard, work)
    asked, answered = (sum(answer[name] for answer in answers) for name in ("asked", "answered"))
    unreadable = sum_unreadable(answers)
    if config.model:
        require_answers(config.model, asked - unreadable.get("unreadable", 0), answered)
    with context.workspace.catalog(read_only=True) as catalog:
        categories = count_by_category(catalog, conditions)
    if set(categories) <= {""}:
        raise ConfigRefused(
            f"none of these {count} images has a category: name a VQA model, or import a table with a column "
            "“category” (`clinic import … --update`)"
        )
    return {
        "selected": count,
        "asked": asked,
        "answered": answered,
        "uncategorised": categories.pop("", 0),
        "categories": categories,
        **unreadable,
    }


def mine_images(context: Context, run: MiningRun, queue_round: str) -> Result:
    """Queue the most informative selected images for annotators, under the id `queue_round`; once.

    Candidates are the images of the selection's hard categories, or of all when none is hard. Raises
    `NotFound` for an empty selection, `ConfigRefused` when the detector has predicted none of it.
    """
    conditions, count = selected(context.workspace, run.images)
    version = detector_of(context, run.detector)
    with context.workspace.catalog(read_only=True) as catalog:
        seen = count - count_of_selection(catalog, [*conditions, not_predicted_by(version.id)])
        statistic = scaled_to(run.statistic, threshold_of(version))
        verdicts = judge_histograms(histograms(catalog, version.id, conditions), statistic)
        queued = catalog.queue.of_round(queue_round)
    if not seen:
        raise ConfigRefused(
            f"{version.name} has predicted none of these {count} images; run `clinic diagnose` on them first"
        )
    hard = sorted(verdict.category for verdict in verdicts if verdict.verdict == "hard")
    unreadable: list[str] = []
    considered = 0
    if not queued:
        mine = at_operating_point(context, run.mine, version.id)
        images = _candidates(context, mine, version, [*conditions, *minable(run.images.filter())], hard)
        considered = len(images)
        mining = Mining(
            detector=version.id,
            config=mine,
            categories={image.id: image.category or "" for image in images},
            upright=DetectorTrainingConfig().augmentation.upright,
            batch=DiagnoseConfig().batch,
        )
        choices = choose_images(find_candidates(context, images, mining, unreadable), mine)
        queued = queue_items(choices, queue_round, version.id)
        fail_point("mine:chosen")
        with context.workspace.catalog() as catalog:
            catalog.queue.add_many(queued)
            catalog.commit()
    return {
        "selected": count,
        "unpredicted": count - seen,
        "hard": hard,
        "considered": considered,
        "queued": len(queued),
        "validation": sum(image.split == "validation" for image in _queued_images(context, queued)),
        "round": queue_round,
        **_note(context, version, conditions, count),
        **unreadable_images(unreadable),
    }


def _queued_images(context: Context, queued: Sequence[QueueItem]) -> list[Image]:
    with context.workspace.catalog(read_only=True) as catalog:
        return catalog.images.get_many([item.image_id for item in queued])


def _candidates(
    context: Context, mine: MiningConfig, version: DetectorVersion, conditions: Conditions, hard: list[str]
) -> list[Image]:
    quiet = QUIET_PER_CHOICE * round(mine.budget * mine.explore)
    with context.workspace.catalog(read_only=True) as catalog:
        return most_telling(
            catalog, conditions, version.id, hard, mine.threshold or 0.0, (MOST_CANDIDATES, quiet)
        )


def pseudo_label_images(context: Context, run: PseudoLabelRun) -> Result:
    """Make the detector's maps the labels of the selected training images that people leave alone.

    Raises `NotFound` for an empty selection, `ConfigRefused` for a detector that gives no maps.
    """
    conditions, count = selected(context.workspace, run.images)
    version = detector_of(context, run.detector)
    if yes_no_question.is_question(version):
        raise ConfigRefused(
            f"{version.name} says whether an image is flawed, not where, so it gives no labels; choose a "
            "detector that predicts maps"
        )

    def work(part: Context, page: list[Image]) -> Result:
        return pseudo_label(part, version.id, page, NO_ROUND, run.pseudo_label.batch)

    config = run.pseudo_label
    left = [*conditions, *pseudo_labelable(version.id, NO_ROUND)]
    answers = work_through(context, left, config.shard, work, config.limit)
    return {
        "selected": count,
        "detector": version.id,
        "name": version.name,
        "images": sum(answer["images"] for answer in answers),
        "flawed": sum(answer["flawed"] for answer in answers),
        **_note(context, version, conditions, count),
        **sum_unreadable(answers),
    }


def _note(context: Context, version: DetectorVersion, conditions: Conditions, count: int) -> Result:
    with context.workspace.catalog(read_only=True) as catalog:
        foreign = count_of_selection(catalog, [*conditions, elsewhere(catalog)]) if version.domain else 0
    note = foreign_note(version, foreign, count)
    return {"note": note} if note else {}


def diagnose_job(context: Context, args: dict[str, Any]) -> Result:
    """Run or resume a diagnosis."""
    return diagnose_images(context, DiagnosisRun.model_validate(args["settings"]))


def categorize_job(context: Context, args: dict[str, Any]) -> Result:
    """Run or resume a categorization."""
    return categorize_images(context, CategorizationRun.model_validate(args["settings"]))


def mine_job(context: Context, args: dict[str, Any]) -> Result:
    """Run mining; a repeated run of the same id queues nothing new."""
    return mine_images(context, MiningRun.model_validate(args["settings"]), args["run"])


def pseudo_label_job(context: Context, args: dict[str, Any]) -> Result:
    """Run or resume pseudo-labelling."""
    return pseudo_label_images(context, PseudoLabelRun.model_validate(args["settings"]))
