"""Stage: generate held-out prompts before and after treatment, and compare."""

from dataengine.records import Image, threshold_of
from dataengine.records.images import JUDGE
from pipelines.detectors.predict import predict
from pipelines.generators.comparison import Pair, confidence_figures, quality_figures
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.round_data import images_of, recipe_of, results_of
from pipelines.stages.generate import generating
from pipelines.stages.stage import Stage, change, run_work


def judge(context: Context, round_id: str) -> Result:
    """Generate with both generators, predict on both, compare."""
    treated = results_of(context, round_id)["treat"]
    if treated["treated"] is None:
        return {"treated": None, "pairs": 0, "reason": treated["stopped"]}
    run_work(context, round_id, generating(JUDGE))
    pairs = pairs_of(context, round_id)
    batch = recipe_of(context, round_id).diagnose.batch
    before = predict(context, treated["detector"], [pair.before for pair in pairs], batch)
    after = predict(context, treated["detector"], [pair.after for pair in pairs], batch)
    fail_point("judge:predicted")
    attributes = recipe_of(context, round_id).judge.attributes
    with context.workspace.catalog(read_only=True) as catalog:
        threshold = threshold_of(catalog.detectors.get(treated["detector"]))
    figures = {
        **confidence_figures(pairs, before, after, threshold),
        **quality_figures(context, pairs, attributes),
    }
    return {"treated": treated["treated"], "pairs": len(pairs), **figures}


def pairs_of(context: Context, round_id: str) -> list[Pair]:
    """Every prompt and seed for which both generators have an image, in a fixed order."""
    treated = results_of(context, round_id)["treat"]
    by_generator: dict[str | None, dict[tuple[str, int | None], Image]] = {}
    for image in images_of(context, round_id, JUDGE):
        by_generator.setdefault(image.generator_id, {})[image.prompt, image.seed] = image
    before, after = by_generator.get(treated["generator"], {}), by_generator.get(treated["treated"], {})
    both = sorted(before.keys() & after.keys(), key=str)
    return [Pair(before=before[key], after=after[key]) for key in both]


def _found(result: Result) -> str:
    if not result["pairs"]:
        return "Nothing to compare"
    mean, flagged = result["mean_confidence"], result.get("flagged") or result["frequency"]
    return (
        f"{result['pairs']} pairs; mean confidence {change(mean['before'], mean['after'])}, "
        f"flagged images {change(flagged['before'], flagged['after'])}"
    )


STAGE = Stage(
    name="judge",
    title="compare before and after on held-out prompts",
    part="treatment",
    section="judge",
    takes="both generators, held-out prompts and seeds",
    found=_found,
    work=judge,
)
