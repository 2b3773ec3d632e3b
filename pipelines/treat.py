"""Treat: the generator learns where it breaks (DiffDoctor, Algorithm 1, Eq. 2-4).

Input: a generator, the champion detector, treating prompts, artifact-free pictures with captions. Output: a
new generator version (base + LoRA), or none when the guard kept nothing. Cost: the longest stage of a
round.

How it differs from the paper: the gradient flows through the last three of five steps instead of the last
one; the regularisation is a mean squared error over elements, where the paper prints a norm; and a quality
guard that asks neither detector nor oracle chooses the kept checkpoint, where the paper stops by eye.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.errors import ConfigRefused, Corrupt, NotFound
from dataengine.quality.guard import Guard
from dataengine.records import DetectorVersion, GeneratorVersion, Treatment, digest
from pipelines.context import Context, Result
from pipelines.failpoint import fail_point
from pipelines.generate import generators_of, open_generator
from pipelines.pictures import stack
from pipelines.steps import SURVEY, TREAT, champion, prompts_of, recipe_of

CHECKED = 4
"""Images that the saved LoRA draws in a fresh pipeline."""
TOLERANCE = 1.0
"""Largest mean difference, of 255, to what the tuned pipeline draws; float rounding stays far below."""


def treat(context: Context, round_id: str) -> Result:
    """Train a LoRA against the champion, verify it in a fresh pipeline, register what it makes."""
    treatment_id = digest("treatment", round_id)
    with context.workspace.catalog(read_only=True) as catalog:
        try:
            return dict(catalog.treatments.get(treatment_id).result)
        except NotFound:
            base = catalog.generators.get(_chosen(context, round_id))
    detector = champion(context)
    family = open_generator(context, base)
    outcome = _tune(context, round_id, family, detector)
    treated = _published(context, round_id, base, family, outcome, treatment_id)
    result = {
        "treatment": treatment_id,
        "generator": base.id,
        "detector": detector.id,
        "treated": treated.id if treated else None,
        "kept": outcome.kept_step,
        "updates": outcome.updates,
        "stopped": outcome.stopped_reason or "all updates done",
        **_history(outcome.history),
    }
    _record(context, round_id, result, treated)
    context.workspace.checkpoints.discard(_work_id(round_id))
    return result


def _chosen(context: Context, round_id: str) -> str:
    """The generator that the recipe names, else the round's first."""
    recipe = recipe_of(context, round_id)
    return recipe.treat.generator or generators_of(context, round_id, recipe, SURVEY)[0]


def _tune(context: Context, round_id: str, family: Any, detector: DetectorVersion) -> Any:
    """Run the treatment, or go on with it after a crash; then `family` carries the kept weights."""
    recipe = recipe_of(context, round_id)
    prompts = [prompt.text for prompt in prompts_of(context, round_id, TREAT)]
    if not prompts:
        raise ConfigRefused(
            "The round has no prompts to treat on; let write_prompts.treat_per_category be above 0."
        )
    frozen = context.tools.open_detector(context.workspace.checkpoints.fetch(detector.checkpoint))
    reader = context.tools.open_attributes(recipe.judge.attributes) if recipe.judge.attributes else None
    guard = Guard(recipe.treat.tuning.guard, _guard_prompts(context, round_id, prompts), reader)
    clean, captions = _clean_pictures(context, recipe.treat.real_limit)
    work = context.workspace.checkpoints.pending(_work_id(round_id))
    outcome = context.tools.treat(
        recipe.treat.tuning, family, frozen, prompts, clean, captions, guard, work, context.report
    )
    fail_point("treat:tuned")
    return outcome


def _guard_prompts(context: Context, round_id: str, treated: Sequence[str]) -> list[str]:
    """Survey prompts that are not treated on, categories in turn; treating prompts if there are no others."""
    by_category: dict[str | None, list[str]] = {}
    for prompt in prompts_of(context, round_id, SURVEY):
        if prompt.text not in treated:
            by_category.setdefault(prompt.category, []).append(prompt.text)
    turns = zip_longest(*by_category.values())
    return [text for turn in turns for text in turn if text is not None] or list(treated)


def _clean_pictures(context: Context, limit: int) -> tuple[np.ndarray, list[str]]:
    """Artifact-free training pictures of the commonest size with their captions: uint8 NHWC."""
    with context.workspace.catalog(read_only=True) as catalog:
        images = catalog.images.find(source="real", split="train", status="active", has_prompt=True)
    sizes = Counter((image.height, image.width) for image in images)
    if not sizes:
        return np.zeros((0, 1, 1, 3), np.uint8), []
    size = sizes.most_common(1)[0][0]
    chosen = [image for image in images if (image.height, image.width) == size][:limit]
    return stack(context.workspace, chosen), [image.prompt for image in chosen]


def _published(
    context: Context, round_id: str, base: GeneratorVersion, tuned: Any, outcome: Any, treatment_id: str
) -> GeneratorVersion | None:
    """The kept LoRA as a generator version; None when nothing was better than the generator as it was."""
    if outcome.kept_step == 0:
        return None
    checkpoint = context.workspace.checkpoints.publish(Path(outcome.lora_folder))
    _verify(context, round_id, base, tuned, context.workspace.checkpoints.fetch(checkpoint))
    return GeneratorVersion(
        id=digest("generator", base.id, treatment_id),
        name=f"{base.name}, treated",
        location=base.location,
        lora=checkpoint,
        parent=base.id,
        treatment_id=treatment_id,
        settings=base.settings,
        licence=base.licence,
    )


def _verify(context: Context, round_id: str, base: GeneratorVersion, tuned: Any, lora: Path) -> None:
    """Hold what a fresh pipeline draws with the saved LoRA against what the tuned one draws.

    Raises `Corrupt` when they differ, so that no generator is registered that others could not use.
    """
    prompts = [prompt.text for prompt in prompts_of(context, round_id, TREAT)][:CHECKED]
    settings = recipe_of(context, round_id).generate.sampling
    seeds = list(range(len(prompts)))
    fresh = open_generator(context, base, lora)
    expected, found = (
        context.tools.generate(family, prompts, seeds, settings).astype(np.float32)
        for family in (tuned, fresh)
    )
    if (difference := float(np.abs(expected - found).mean())) > TOLERANCE:
        raise Corrupt(
            f"The saved LoRA draws other images in a fresh pipeline than the tuned one (mean difference "
            f"{difference:.2f} of 255). Nothing was registered; run the stage again."
        )


def _history(rows: Sequence[dict[str, Any]]) -> Result:
    """Confidence (or loss, without the pixel objective) by update, and the guard's looks."""
    numbered = list(enumerate(rows, start=1))
    return {
        "curve": [[update, round(row.get("pixel", row["loss"]), 6)] for update, row in numbered],
        "looks": [{"update": update, **row["guard"]} for update, row in numbered if "guard" in row],
    }


def _work_id(round_id: str) -> str:
    return f"{round_id}-treat"


def _record(context: Context, round_id: str, result: Result, treated: GeneratorVersion | None) -> None:
    """Generator and treatment become known together."""
    treatment = Treatment(
        id=result["treatment"],
        generator_id=result["generator"],
        detector_id=result["detector"],
        config=recipe_of(context, round_id).treat.tuning.model_dump(mode="json"),
        result=result,
        treated_id=result["treated"],
        round_id=round_id,
    )
    with context.workspace.catalog() as catalog:
        if treated is not None:
            catalog.generators.add(treated)
        catalog.treatments.add(treatment)
        catalog.commit()
