"""Stage: predict artifact maps for the round's images."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from dataengine.records.images import HARD, SURVEY
from pipelines.config import Part
from pipelines.detectors import score_dynamics, vlm_boxes, yes_no_question
from pipelines.detectors.predict import predict
from pipelines.runtime.context import Context, Result
from pipelines.runtime.open_detector import champion_version
from pipelines.runtime.round_data import images_of, recipe_of
from pipelines.runtime.shards import Shard, shard_bounds
from pipelines.selections.diagnose import diagnose, summarise
from pipelines.stages.stage import Sharded, Stage


def shards(context: Context, round_id: str, purpose: str) -> list[Shard]:
    """Consecutive parts of the round's images, and the current champion."""
    count = len(images_of(context, round_id, purpose))
    detector = champion_version(context).id
    return [
        {"purpose": purpose, "detector": detector, "start": start, "stop": stop}
        for start, stop in shard_bounds(count, recipe_of(context, round_id).diagnose.shard)
    ]


def run_shard(context: Context, round_id: str, shard: Shard) -> Result:
    """Predict one part; also with score dynamics and a VQA model, if the recipe says so."""
    images = images_of(context, round_id, shard["purpose"])[shard["start"] : shard["stop"]]
    config = recipe_of(context, round_id).diagnose
    answer = diagnose(context, shard["detector"], images, config.batch)
    if config.dynamics is not None:
        dynamics = score_dynamics.get_or_register_detector(context.workspace, config.dynamics)
        predict(context, dynamics.id, score_dynamics.redrawable_images(images), config.batch)
    if config.question is not None:
        question = yes_no_question.get_or_register_detector(context.workspace, config.question)
        predict(context, question.id, images, config.batch, unreadable=[])
    if config.boxes is not None:
        boxes = vlm_boxes.get_or_register_detector(context.workspace, config.boxes)
        refused: list[str] = []
        predict(context, boxes.id, images, config.batch, unreadable=refused)
        answer["boxes_refused"] = len(refused)
    return answer


def finish(context: Context, round_id: str, answers: Sequence[Result]) -> Result:
    """Mean of the images' highest confidence, and how many reach its threshold."""
    detector = answers[0]["detector"] if answers else champion_version(context).id
    found = summarise(context, detector, answers)
    refused = sum(answer.get("boxes_refused", 0) for answer in answers)
    return found | ({"boxes_refused": refused} if refused else {})


def _stage(name: str, purpose: str, title: str, part: Literal["survey"] | Part, takes: str) -> Stage:
    return Stage(
        name=name,
        title=title,
        part=part,
        section="diagnose",
        takes=takes,
        found=lambda result: (
            f"{result['suspected']} of {result['images']} images flagged; "
            f"mean peak confidence {result['mean_max']:.2f}"
            + (f"; {result['unreadable']} unreadable" if result.get("unreadable") else "")
            + (f"; boxes of {result['boxes_refused']} refused" if result.get("boxes_refused") else "")
        ),
        work=Sharded(shards=partial(shards, purpose=purpose), run_shard=run_shard, finish=finish),
    )


SURVEY_STAGE = _stage("diagnose", SURVEY, "predict artifact maps", "survey", "survey images")
HARD_STAGE = _stage("diagnose_hard", HARD, "predict artifact maps of hard cases", "hard", "hard images")
