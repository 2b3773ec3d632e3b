"""Write what a training on masks made: detector folder with card, curves, contact sheet, report.

Input: a trained detector of a workspace and the plan it was trained by. Output in a folder: `detector/`,
`curves.svg`, `contact_sheet.jpg` and `report.json`. Cost: the maps of a few validation images.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataengine import durable
from dataengine.bounds import read_config
from dataengine.diagnosis.point_files import write_point
from dataengine.records import DetectorVersion, OperatingPoint, SnapshotItem, describe_point
from pipelines.config import TrainingRun
from pipelines.detectors.dataset import StoredSamples
from pipelines.detectors.evaluation import evaluation_sets
from pipelines.jobs.previews import predict_maps, spread_evenly
from pipelines.reports.diagnosis import OVERLAY_QUALITY, encode_jpeg
from pipelines.reports.output_files import write_file, writing
from pipelines.reports.training import ShownSample, render_curves, render_samples, training_card
from pipelines.runtime.context import Context

DETECTOR, REPORT, SHEET = "detector", "report.json", "contact_sheet.jpg"
LOSS_CURVE, VALIDATION_CURVE = "loss.svg", "validation.svg"
SHOWN = 12
"""Validation images of the contact sheet, of those with artifacts and of those without."""
KEPT = ("validation", "validation_real", "benchmark", "benchmark_real", "training", "calibration", "beside")
"""Figures of a detector that the report repeats."""

Counts = dict[str, dict[str, int]]


def count_sets(training: Sequence[SnapshotItem], sets: Mapping[str, Sequence[SnapshotItem]]) -> Counts:
    """Images with and without artifacts, by set; sets of real photos count with theirs."""
    counts: Counts = {}
    for name, items in {"training": training, **sets}.items():
        part = counts.setdefault(name.removesuffix("_real"), {"flawed": 0, "clean": 0})
        for item in items:
            part["flawed" if item.positive else "clean"] += 1
    return counts


def write_training(
    context: Context,
    version: DetectorVersion,
    plan: TrainingRun,
    out: Path,
    data: Mapping[str, Any],
    curves: Mapping[str, Sequence[tuple[int, float]]],
) -> dict[str, Any]:
    """Write everything that the output folder of a training holds; returns the report.

    `data` says what was read, `curves` holds (step, value) by figure. Raises `WorkspaceUnusable`.
    """
    sets = evaluation_sets(context, plan.publish)
    training = context.workspace.snapshots.read(version.snapshot_id or "")
    counts = count_sets(training, sets)
    start = plan.start or plan.training.encoder_weights or "random weights"
    report = {
        "detector": {
            "id": version.id,
            "name": version.name,
            "folder": DETECTOR,
            "licence": version.licence,
            "start": start,
        },
        "data": {**data, "sets": counts},
        "operating_point": {
            **asdict(version.operating_point or OperatingPoint()),
            "text": describe_point(version)["text"],
        },
        "figures": {name: version.metrics[name] for name in KEPT if name in version.metrics},
        "settings": plan.model_dump(mode="json"),
        "curves": curves,
    }
    with writing(out):
        _write_detector(context, version, start, counts, out / DETECTOR)
        losses = {"loss": curves.get("loss", [])}
        watched = {
            name.removeprefix("validation_"): points
            for name, points in curves.items()
            if name.startswith("validation_")
        }
        for file, series in ((LOSS_CURVE, losses), (VALIDATION_CURVE, watched)):
            if chart := render_curves(series, file.removesuffix(".svg")):
                write_file(out / file, chart.encode())
        if samples := _samples(context, version, sets.get("validation", []), plan.evaluate.batch):
            sheet = render_samples(samples, version.name, "validation images with map and mask")
            write_file(out / SHEET, encode_jpeg(sheet, OVERLAY_QUALITY))
        write_file(out / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    return report


def _write_detector(
    context: Context, version: DetectorVersion, start: str, counts: Counts, folder: Path
) -> None:
    """The detector's files, its operating point and its card; the folder appears complete."""
    if folder.exists():
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as draft:
        made = Path(draft) / folder.name
        shutil.copytree(context.workspace.checkpoints.fetch(version.checkpoint), made)
        write_point(made, version.operating_point or OperatingPoint())
        settings = json.dumps(version.config, indent=1) + "\n"
        write_file(made / "training.json", settings.encode())
        network = read_config(made / "detector.json") if (made / "detector.json").is_file() else {}
        write_file(made / "README.md", training_card(version, network, start, counts).encode())
        durable.move(made, folder)


def _samples(
    context: Context, version: DetectorVersion, items: Sequence[SnapshotItem], batch: int
) -> list[ShownSample]:
    flawed = [item for item in items if item.positive]
    clean = [item for item in items if not item.positive]
    shown = [
        *spread_evenly(flawed, SHOWN)[:SHOWN],
        *spread_evenly(clean, max(1, SHOWN // 3))[: SHOWN // 3],
    ]
    with context.workspace.catalog(read_only=True) as catalog:
        images = {image.id: image for image in catalog.images.get_many([item.image_id for item in shown])}
    shown = [item for item in shown if item.image_id in images]
    mine = [images[item.image_id] for item in shown]
    maps = predict_maps(context, version.id, mine, batch)
    stored = StoredSamples(context.workspace, shown)
    samples = []
    for index, (image, confidence) in enumerate(zip(mine, maps, strict=True)):
        sample = stored.sample(index)
        name = Path(image.origin or image.id).name
        samples.append(
            ShownSample(name=name, image=sample.image, confidence=confidence, mask=sample.target > 0)
        )
    return samples
