"""Evaluate: the champion and the candidate on what neither has trained on.

Input: two detectors; labelled images of the splits "validation" and "benchmark", and artifact-free real
pictures of both. Output: MSE, KL(P‖Q), KL(1−P‖1−Q) (DiffDoctor, Table 1) and rates, champion beside
candidate. Choices are made on validation alone; the benchmark is only reported. Cost: two forward passes an
image.
"""

from dataclasses import asdict
from typing import Any

from dataengine.records import SnapshotItem, Split
from pipelines import dynamics, questioning
from pipelines.composition import labelled, real
from pipelines.config import PublishConfig
from pipelines.context import Context, Result
from pipelines.failpoint import fail_point
from pipelines.samples import StoredSamples
from pipelines.steps import champion, opened, recipe_of, results_of

SPLITS: tuple[Split, ...] = ("validation", "benchmark")


def evaluate(context: Context, round_id: str) -> Result:
    """Measure both detectors and keep the figures with them."""
    before, after = champion(context).id, results_of(context, round_id)["retrain"]["detector"]
    recipe = recipe_of(context, round_id)
    sets = evaluation_sets(context, recipe.publish, round_id)
    figures = {
        detector_id: measure(context, detector_id, sets, recipe.evaluate.batch)
        for detector_id in dict.fromkeys((before, after))
    }
    fail_point("evaluate:measured")
    with context.workspace.catalog() as catalog:
        for detector_id, found in figures.items():
            catalog.detectors.record_metrics(detector_id, found)
        catalog.commit()
    return {"before": before, "after": after, "champion": figures[before], "candidate": figures[after]}


def evaluation_sets(
    context: Context, weights: PublishConfig, round_id: str | None = None
) -> dict[str, list[SnapshotItem]]:
    """Rows to measure on: labelled images by split, real ones by split + "_real"; empty sets are left out."""
    sets: dict[str, list[SnapshotItem]] = {}
    for split in SPLITS:
        sets[split] = labelled(context, round_id, split, weights)
        sets[f"{split}_real"] = real(context, split, weights)
    return {name: items for name, items in sets.items() if items}


def measure(
    context: Context, detector_id: str, sets: dict[str, list[SnapshotItem]], batch: int
) -> dict[str, Any]:
    """One detector's figures on each set."""
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
    if dynamics.watches(version):
        return dynamics.measured(context, detector_id, sets, batch)
    if questioning.asks(version):
        return {}  # Every figure is one of maps, and it gives none.
    detector = opened(context, detector_id)
    figures = {}
    for index, (name, items) in enumerate(sets.items()):
        context.report(index, len(sets), f"{version.name} on {name}")
        samples = StoredSamples(context.workspace, items)
        figures[name] = asdict(context.tools.evaluate_detector(detector, samples, batch=batch))
    return figures
