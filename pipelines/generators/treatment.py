"""Run one treatment: prompts, clean images, tuning, verification, registration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.errors import ConfigRefused, Corrupt, NotFound
from dataengine.quality.guard import Guard, mean_change
from dataengine.records import DetectorVersion, GeneratorVersion, Image, Treatment, digest
from dataengine.treatment.config import SamplingConfig, TreatmentConfig
from pipelines.generators.draw import open_generator
from pipelines.generators.files import DISTILLED, SAMPLING
from pipelines.generators.preferences import gather_pairs, pairs_result
from pipelines.runtime.context import Context, Result
from pipelines.runtime.devices import naming_out_of_memory
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.images import StoredPixels, batches_of_equal_size, read_stacked
from pipelines.runtime.models import BOXES_FILE
from pipelines.runtime.scratch import discard_scratch, scratch_folder

CHECKED = 4
"""Number of images on which the saved LoRA is verified in a fresh pipeline."""
TOLERANCE = 1.0
"""Largest allowed mean difference, of 255, to the tuned pipeline's images; rounding errors are far
smaller."""


REAL_SCORES = "real_scores.json"
"""File of a run: scores of real images, by scorer and id."""
SCORED_AT_ONCE = 64

FEWER_BITS = "register it in bfloat16 or with fewer bits, or use a device with more memory"
SMALLER = (
    "images of fewer pixels (sampling.height, sampling.width) need less, and so do weights of fewer bits"
)
"""Batches have been reduced to one image by then."""


@dataclass(frozen=True, kw_only=True)
class TreatmentPlan:
    """All inputs of one treatment: generator, detector, prompts and settings."""

    run: str
    """Id under which it is resumed: the round's, or its own."""
    base: GeneratorVersion
    detector: DetectorVersion
    prompts: Sequence[str]
    guarded: Sequence[str]
    """Prompts of the guard's images."""
    tuning: TreatmentConfig
    sampling: SamplingConfig
    """Sampler settings for verifying the saved LoRA."""
    real_limit: int
    real_scorer: str = ""
    """Chooses among the real images; "" takes all."""
    real_least: float = 0.0
    held_out: Sequence[str] = ()
    """Prompts of the comparison, of which no preference pair is trained on."""
    attributes: str = ""
    scorers: Sequence[str] = ()
    """Preference models that the guard also evaluates."""
    name: str = ""
    round_id: str | None = None

    @property
    def treatment_id(self) -> str:
        """Id of the treatment's row."""
        return digest("treatment", self.run)


def run_treatment(context: Context, plan: TreatmentPlan, **watched: Any) -> Result:
    """Run or resume a treatment from its last checkpoint; returns the stored result if it is finished."""
    if done := finished_result(context, plan.treatment_id):
        return done
    _require_gradient(context, plan)
    outcome, expected = _tune(context, plan, **watched)
    treated = _register_treated(context, plan, expected, outcome)
    result = {
        "treatment": plan.treatment_id,
        "generator": plan.base.id,
        "detector": plan.detector.id,
        "treated": treated.id if treated else None,
        "kept": outcome.kept_step,
        "updates": outcome.updates,
        "stopped": outcome.stopped_reason or "all updates done",
        "reader": outcome.reader,
        **_history(outcome.history),
        **pairs_result(context.workspace, plan.run),
    }
    _record(context, plan, result, treated)
    discard_scratch(context.workspace, _work_id(plan))
    return result


def tuning_for(base: GeneratorVersion, tuning: TreatmentConfig) -> TreatmentConfig:
    """The settings of a treatment, in which the guard measures a generator that is distilled to few steps at
    its own number of them, unless they say otherwise."""
    few = base.settings.get(SAMPLING, {}).get("steps") if base.settings.get(DISTILLED) else None
    if few is None or tuning.guard.steps is not None:
        return tuning
    return tuning.model_copy(update={"guard": tuning.guard.model_copy(update={"steps": few})})


def _require_gradient(context: Context, plan: TreatmentPlan) -> None:
    """Raise `ConfigRefused` for a detector that answers boxes where an objective differentiates it."""
    folder = context.workspace.checkpoints.fetch(plan.detector.checkpoint)
    if plan.tuning.needs_detector_gradient and (folder / BOXES_FILE).is_file():
        raise ConfigRefused(
            f"{plan.detector.name} answers boxes and has no gradient, which the pixel loss needs; choose a "
            "trained detector, or set pixel.weight to 0 and an objective that needs no gradient"
        )


def finished_result(context: Context, treatment_id: str) -> Result | None:
    with context.workspace.catalog(read_only=True) as catalog:
        try:
            return dict(catalog.treatments.get(treatment_id).result)
        except NotFound:
            return None


def _tune(context: Context, plan: TreatmentPlan, **watched: Any) -> tuple[Any, np.ndarray | None]:
    """Tune the base, resuming after a crash; returns the outcome and what the kept weights draw of the
    verified prompts, uint8 NHWC (None if nothing was kept). The tuned pipeline is released on return."""
    with naming_out_of_memory(f"opening {plan.base.name}", FEWER_BITS):
        family = open_generator(context, plan.base)
    frozen = context.models.open_detector(context.workspace.checkpoints.fetch(plan.detector.checkpoint))
    reader = context.models.open_attributes(plan.attributes) if plan.attributes else None
    scorers = [context.models.open_scorer(named) for named in plan.scorers]
    guard = Guard(plan.tuning.guard, plan.guarded, reader, scorers)
    clean, captions = _clean_images(context, plan)
    if plan.tuning.preference is not None:
        shown = plan.tuning.preference, plan.detector.id, plan.held_out
        watched["pairs"] = gather_pairs(context, plan.run, *shown)
    inputs = (plan.tuning, family, frozen, plan.prompts, clean, captions, guard)
    with scratch_folder(context.workspace, _work_id(plan)) as work:
        outcome = context.models.treat(*inputs, work, context.report, **watched)
    fail_point("treat:tuned")
    return outcome, _draw_verified(context, plan, family) if outcome.kept_step else None


def _clean_images(context: Context, plan: TreatmentPlan) -> tuple[StoredPixels, list[str]]:
    """Artifact-free training images, uint8 HWC of any sizes, with their captions."""
    with context.workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(source="real", split="train", status="active", has_prompt=True)
    if plan.real_scorer and plan.tuning.offline is not None:
        images = _well_scored(context, plan, images)
    chosen = images[: plan.real_limit]
    return StoredPixels(context.workspace, chosen), [image.prompt for image in chosen]


def _well_scored(context: Context, plan: TreatmentPlan, images: Sequence[Image]) -> list[Image]:
    """The first `real_limit` images that score at least `real_least`, in their order. Scores are stored with
    the run, so that a resumed one does not score again. Raises `ConfigRefused` if there are none."""
    stored = context.workspace.job_files.get(plan.run, REAL_SCORES) or {}
    scores: dict[str, float] = dict(stored.get(plan.real_scorer, {}))
    missing = [image for image in images if image.id not in scores]
    scorer = context.models.open_scorer(plan.real_scorer) if missing else None
    for batch in batches_of_equal_size(missing, SCORED_AT_ONCE):
        if sum(score >= plan.real_least for score in scores.values()) >= plan.real_limit:
            break
        context.report(len(scores), len(images), "scoring real images")
        assert scorer is not None
        found = scorer.score(read_stacked(context.workspace, batch), [image.prompt for image in batch])
        scores |= {image.id: float(score) for image, score in zip(batch, found, strict=True)}
        context.workspace.job_files.put(plan.run, REAL_SCORES, {**stored, plan.real_scorer: scores})
    chosen = [image for image in images if scores.get(image.id, -math.inf) >= plan.real_least]
    if images and not chosen:
        best = max(scores.values())
        raise ConfigRefused(
            f"none of {len(images)} real images scores {plan.real_least:g} or more by {plan.real_scorer}; "
            f"the best has {best:.3g}. Lower real_least, which depends on the scorer, or leave "
            "real_scorer empty"
        )
    return chosen


def _register_treated(
    context: Context, plan: TreatmentPlan, expected: np.ndarray | None, outcome: Any
) -> GeneratorVersion | None:
    """The kept LoRA as a generator version; None if no update was better than the base."""
    if expected is None:
        return None
    checkpoint = context.workspace.checkpoints.publish(Path(outcome.lora_folder))
    _verify(context, plan, expected, context.workspace.checkpoints.fetch(checkpoint))
    base = plan.base
    with context.workspace.catalog(read_only=True) as catalog:
        called = catalog.generators.free_name(plan.name or f"{base.name}, treated")
    return GeneratorVersion(
        id=digest("generator", base.id, plan.treatment_id),
        name=called,
        location=base.location,
        lora=checkpoint,
        parent=base.id,
        treatment_id=plan.treatment_id,
        settings=base.settings,
        licence=base.licence,
    )


def _verify(context: Context, plan: TreatmentPlan, expected: np.ndarray, lora: Path) -> None:
    """Compare images of a fresh pipeline with the saved LoRA with `expected`, the tuned pipeline's.

    Raises `Corrupt` if they differ, so that no unusable generator is registered.
    """
    actual = _draw_verified(context, plan, open_generator(context, plan.base, lora))
    if (difference := mean_change(expected, actual) * 255) > TOLERANCE:
        raise Corrupt(
            f"The saved LoRA generates other images in a fresh pipeline than in the tuned one (mean "
            f"difference "
            f"{difference:.2f} of 255). Nothing was registered; run the stage again."
        )


def _draw_verified(context: Context, plan: TreatmentPlan, family: Any) -> np.ndarray:
    """Images uint8 NHWC of the first prompts, to compare two pipelines."""
    prompts = list(plan.prompts)[:CHECKED]
    with naming_out_of_memory("verifying the treated generator", SMALLER):
        seeds = list(range(len(prompts)))
        images: np.ndarray = context.models.generate(family, prompts, seeds, plan.sampling)
    return images


def _history(rows: Sequence[dict[str, Any]]) -> Result:
    """Confidence (or loss, without the pixel objective) by update, and the guard's checks."""
    numbered = list(enumerate(rows, start=1))
    return {
        "curve": [[update, round(row.get("pixel", row["loss"]), 6)] for update, row in numbered],
        "looks": [{"update": update, **row["guard"]} for update, row in numbered if "guard" in row],
    }


def _work_id(plan: TreatmentPlan) -> str:
    return f"{plan.run}-treat"


def _record(context: Context, plan: TreatmentPlan, result: Result, treated: GeneratorVersion | None) -> None:
    """Store generator and treatment in one transaction."""
    treatment = Treatment(
        id=result["treatment"],
        generator_id=result["generator"],
        detector_id=result["detector"],
        config=plan.tuning.model_dump(mode="json"),
        result=result,
        treated_id=result["treated"],
        round_id=plan.round_id,
    )
    with context.workspace.catalog() as catalog:
        if treated is not None:
            catalog.generators.add(treated)
        catalog.treatments.add(treatment)
        catalog.commit()
