"""Train a detector outside a round: publish a snapshot, train, compare with the champion if there is one.

Input: a `TrainingRun` and its id. Output: a detector of role "candidate" with its metrics, a reliability
diagram, and its worst images, for a person to decide on its promotion. It starts from a registered detector,
from an encoder's weights, or from random ones (`pipelines.detectors.start`). If killed, it resumes with the
same snapshot from the training's last checkpoint. Cost: the training, and predictions of two detectors on
every labelled evaluation image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataengine.errors import InputRefused
from dataengine.masks import quantise
from dataengine.records import DetectorVersion, SnapshotItem
from pipelines.config import EvaluateConfig, TrainingRun
from pipelines.detectors.dataset import StoredSamples, target_of
from pipelines.detectors.evaluation import (
    compare_detectors,
    evaluation_sets,
    measure_on_sets,
    record_comparison,
)
from pipelines.detectors.leaderboard import calibrate_on_sets
from pipelines.detectors.start import choose_start
from pipelines.detectors.train import train_version
from pipelines.detectors.training_set import build_training_set, count_by_kind
from pipelines.jobs.previews import FROZEN, predict_maps, save_samples, spread_evenly
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.images import read_pixels

WATCHED = 96
"""Number of validation images that are evaluated during training."""
SHOWN = 6
WORST = 10


def retrain_job(context: Context, args: dict[str, Any]) -> Result:
    """Run or resume a training run, from its snapshot to an evaluated candidate."""
    run, plan = args["run"], TrainingRun.model_validate(args["settings"])
    with context.workspace.catalog(read_only=True) as catalog:
        start = choose_start(catalog, plan)
    plan = start.fixed_in(plan)
    snapshot_id, items = get_or_publish_snapshot(context, run, plan)
    sets = evaluation_sets(context, plan.publish)
    few = spread_evenly(sets.get("validation", []), WATCHED)
    watcher = TrainingReporter(
        context=context, run=run, items=few, steps=plan.training.steps, evaluation=plan.evaluate
    )
    watched: dict[str, Any] = {"watch": watcher.report} if watcher.items else {}
    context.may_pause()
    name = plan.training.name
    candidate = train_version(
        context,
        run,
        "retrain",
        "candidate",
        plan.training,
        start.detector,
        items,
        sets,
        plan.evaluate,
        snapshot_id,
        name,
        pausing=context.pausing,
        **watched,
    )
    fail_point("retrain:learned")
    context.may_pause()
    champion_id = compare_with_champion(context, candidate, sets, plan.evaluate)
    return {
        "detector": candidate.id,
        "snapshot": snapshot_id,
        "samples": count_by_kind(items),
        "champion": champion_id,
    }


def measure_job(context: Context, args: dict[str, Any]) -> Result:
    """Measure a detector and the champion on the same images, those labelled now."""
    plan = TrainingRun()
    sets = evaluation_sets(context, plan.publish)
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(args["detector"])
    return {"detector": version.id, "champion": compare_with_champion(context, version, sets, plan.evaluate)}


def get_or_publish_snapshot(context: Context, run: str, plan: TrainingRun) -> tuple[str, list[SnapshotItem]]:
    """The run's snapshot, published when the run first started; later labels are not included."""
    snapshots, files = context.workspace.snapshots, context.workspace.job_files
    if stored := files.get(run, FROZEN):
        snapshot_id: str = stored["snapshot"]
    else:
        context.report(0, 1, "publishing the snapshot")
        items = build_training_set(context, plan.publish, training=plan.training)
        snapshot_id = snapshots.publish(items).id
        files.put(run, FROZEN, {"snapshot": snapshot_id})
    return snapshot_id, snapshots.present(snapshots.read(snapshot_id))


def compare_with_champion(
    context: Context,
    candidate: DetectorVersion,
    sets: Mapping[str, Sequence[SnapshotItem]],
    config: EvaluateConfig,
) -> str | None:
    """Evaluate both on the current labels, and store the results with the candidate; returns the champion's
    id."""
    with context.workspace.catalog(read_only=True) as catalog:
        champion = catalog.detectors.champion()
    if champion is None:
        figures = measure_on_sets(context, candidate.id, sets, config.batch)
    else:
        before, figures, comparison = compare_detectors(context, champion.id, candidate.id, sets, config)
        record_comparison(context, champion.id, candidate.id, before, figures, comparison)
    worst = worst_images(context, candidate.id, sets.get("validation", []), config.batch)
    with context.workspace.catalog() as catalog:
        catalog.detectors.record_metrics(candidate.id, {**figures, "worst": worst})
        catalog.commit()
    try:
        calibrate_on_sets(context, sets, candidate.id)
    except InputRefused as why:
        print(f"no reliability diagram: {why}")
    return champion.id if champion else None


def worst_images(
    context: Context, detector_id: str, items: Sequence[SnapshotItem], batch: int
) -> dict[str, list[dict[str, Any]]]:
    """The images with the largest KL(1−P‖1−Q), false alarms, and with the largest KL(P‖Q), misses."""
    from dataengine.diagnosis.image_metrics import kl, kl1m

    with context.workspace.catalog(read_only=True) as catalog:
        images = {image.id: image for image in catalog.images.get_many([item.image_id for item in items])}
    known = [(item, images[item.image_id]) for item in items if item.image_id in images]
    maps = predict_maps(context, detector_id, [image for _, image in known], batch)
    scores: dict[str, list[tuple[float, SnapshotItem]]] = {"false_alarms": [], "misses": []}
    for (item, image), q in zip(known, maps, strict=True):
        p = target_of(context.workspace, item, image)
        scores["false_alarms"].append((kl1m(p, q), item))
        scores["misses"].append((kl(p, q), item))
    return {
        name: [
            {"image": item.image_id, "category": item.category, "score": round(score, 5)}
            for score, item in sorted(rows, key=lambda row: -row[0])[:WORST]
            if score > 0
        ]
        for name, rows in scores.items()
    }


@dataclass(frozen=True, kw_only=True)
class TrainingReporter:
    """Reports metrics on validation images during training, and stores maps of a few of them for display."""

    context: Context
    run: str
    items: Sequence[SnapshotItem]
    steps: int
    evaluation: EvaluateConfig

    def measure(self, detector: Any) -> dict[str, float | None]:
        """The detector's metrics; misses and false alarms at the operating point of these images."""
        from dataengine.diagnosis.dataset import with_maps
        from dataengine.diagnosis.image_metrics import image_metrics
        from dataengine.diagnosis.metrics import summarise
        from dataengine.diagnosis.operating_point import choose_operating_point, figures_at

        def maps(images: list[Any]) -> list[Any]:
            return self.context.models.artifact_maps(detector, images, self.evaluation.batch)

        samples = StoredSamples(self.context.workspace, self.items)
        rows = [image_metrics(sample.target, q) for sample, q in with_maps(samples, maps)]
        point = choose_operating_point(rows, config=self.evaluation.operating_point)
        summary, there = summarise(rows), figures_at(rows, point.flagged, point.component)
        errors = {name: getattr(summary, name) for name in ("mse", "kl", "kl1m")}
        return {**errors, "false_alarm": there.false_alarm, "miss": there.miss}

    def report(self, done: int, detector: Any) -> None:
        """Report the metrics after `done` steps, and store the newest maps of a few images."""
        models, workspace = self.context.models, self.context.workspace
        figures = {f"validation_{name}": value for name, value in self.measure(detector).items()}
        known = {name: value for name, value in figures.items() if value is not None}
        self.context.report(done, self.steps, "validation", **known)
        shown = spread_evenly([item for item in self.items if item.target], SHOWN - 1) or self.items[:SHOWN]
        with workspace.catalog(read_only=True) as catalog:
            images = catalog.images.get_many([item.image_id for item in shown])
        pixels = [read_pixels(workspace, image) for image in images]
        maps = models.artifact_maps(detector, pixels, len(pixels))
        refs = workspace.maps.put_many([quantise(each) for each in maps])
        samples = [
            {"image": image.id, "map": ref, "caption": image.category or image.prompt}
            for image, ref in zip(images, refs, strict=True)
        ]
        save_samples(workspace, self.run, done, samples)
