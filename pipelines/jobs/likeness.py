"""Likeness to a learned instance (DreamBooth) before and after treating the layers that learned it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dataengine.quality.intervals import ratio_of_means
from pipelines.jobs.learn_instance import known_instance, read_instance
from pipelines.runtime.context import Context, Result
from pipelines.runtime.images import read_stacked
from storage.workspace import Workspace

NOT_MEASURED = "likeness not measured: name an image encoder such as DINO or CLIP when learning the instance"
NO_PAIR = "likeness not measured: no held-out pair names the instance"


def measure_likeness(context: Context, run: str, rows: Sequence[Result]) -> Result:
    """Likeness to the images of the instance that `run` learned, before and after treating, over the held-out
    pairs that name it, with its ratio and interval over prompts; a note where it is not measured."""
    from dataengine.quality.likeness import Likeness

    plan, _ = known_instance(context.workspace, run)
    named = naming_pairs(rows, plan.instance_prompt)
    if not plan.encoder or not named:
        return {"instance": run, "note": NO_PAIR if plan.encoder else NOT_MEASURED}
    context.report(0, 1, "measuring the likeness")
    references, _ = read_instance(context.workspace, plan)
    pixels, prompts = read_pairs(context.workspace, named), [row["prompt"] for row in named]
    likeness = Likeness(plan.encoder, references, context.models.device)
    before, after = (likeness.score(pixels[at], prompts) for at in ("before", "after"))
    ratio, interval = ratio_of_means(before, after, prompts)
    return {
        "instance": run,
        **{"before": float(before.mean()), "after": float(after.mean())},
        **{"ratio": ratio, "interval": list(interval), "pairs": len(named), "encoder": plan.encoder},
    }


def naming_pairs(rows: Sequence[Result], instance_prompt: str) -> list[Result]:
    """The pairs whose prompt names the instance."""
    return [row for row in rows if instance_prompt in row["prompt"]]


def read_pairs(workspace: Workspace, rows: Sequence[Result]) -> dict[str, np.ndarray[Any, Any]]:
    """The images "before" and "after" of these pairs, uint8 NHWC."""
    with workspace.catalog(read_only=True) as catalog:
        images = catalog.images.get_many([row[at] for row in rows for at in ("before", "after")])
    known = {one.id: one for one in images}
    return {at: read_stacked(workspace, [known[row[at]] for row in rows]) for at in ("before", "after")}
