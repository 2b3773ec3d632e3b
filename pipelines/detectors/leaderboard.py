"""The leaderboard: every detector version with its metrics on the current labels.

Input: the workspace's detectors. Output: one row each, the best on validation first; benchmark metrics are
shown, but do not affect the order. Cost: none for metrics that stage `evaluate` has stored;
`measure_all_versions` predicts every labelled image with each detector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dataengine.errors import ConfigRefused
from dataengine.licences import forbidden_by
from dataengine.records import CLINIC, DetectorVersion, SnapshotItem, describe_point
from pipelines.detectors import vlm_boxes
from pipelines.detectors.dataset import StoredSamples
from pipelines.detectors.evaluation import evaluation_sets, measure_on_sets
from pipelines.detectors.operating_point import ensure_operating_point, set_operating_point
from pipelines.runtime.context import Context
from pipelines.runtime.open_detector import open_detector
from pipelines.runtime.round_data import recipe_of
from storage.workspace import Workspace

FIGURES = (
    "mse",
    "kl",
    "kl1m",
    "pixel_ap",
    "iou",
    "component_precision",
    "component_recall",
    "auroc",
)
"""Metrics that a row shows on the labelled set; on real images it shows those of `REAL`."""
RATES = ("miss", "false_alarm")
"""Misses and false alarms at the detector's own operating point, on the labelled set."""
REAL = ("mse", "kl1m")
PICTURES = "calibration"
"""Folder of the workspace for reliability diagrams."""


def leaderboard(workspace: Workspace, split: str = "validation") -> list[dict[str, Any]]:
    """Rows from the stored metrics of a split: the lowest validation MSE first, unmeasured versions last."""
    with workspace.catalog(read_only=True) as catalog:
        versions, champion = catalog.detectors.offered(), catalog.detectors.champion()
    rows = [_row(version, version.metrics, split) for version in versions]
    for row in rows:
        row["champion"] = champion is not None and row["detector"] == champion.id
    return sorted(rows, key=lambda row: (row["order"] is None, row["order"] or 0.0, row["detector"]))


def measure_all_versions(context: Context, round_id: str) -> int:
    """Evaluate every version that is not retired on the round's labelled and real images and store the
    metrics; returns the number of versions."""
    recipe = recipe_of(context, round_id)
    sets = evaluation_sets(context, recipe.publish, round_id)
    with context.workspace.catalog(read_only=True) as catalog:
        versions = catalog.detectors.offered()
    for version in versions:
        ensure_operating_point(context, version.id, sets, recipe.evaluate)
        figures = measure_on_sets(context, version.id, sets, recipe.evaluate.batch)
        with context.workspace.catalog() as catalog:
            catalog.detectors.record_metrics(version.id, figures)
            catalog.commit()
    return len(versions)


def calibrate_on_validation(context: Context, round_id: str, detector_id: str) -> dict[str, Any]:
    """Fit the detector's temperature on validation; store it with the reliability diagrams before and after,
    and choose the detector's operating point anew.

    The chart is `calibration/DETECTOR.svg` in the workspace. The temperature is not applied by default:
    treatment and diagnosis use the uncalibrated detector.
    """
    recipe = recipe_of(context, round_id)
    sets = evaluation_sets(context, recipe.publish, round_id)
    set_operating_point(context, detector_id, sets, recipe.evaluate)
    return calibrate_on_sets(context, sets, detector_id)


def calibrate_on_sets(
    context: Context, sets: Mapping[str, Sequence[SnapshotItem]], detector_id: str
) -> dict[str, Any]:
    """As `calibrate_on_validation`, on the validation rows among `sets` (see `evaluation_sets`)."""
    from dataengine.diagnosis.calibration import calibrate, reliability_svg

    validation = StoredSamples(
        context.workspace, [*sets.get("validation", []), *sets.get("validation_real", [])]
    )
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
    if vlm_boxes.is_boxes(version):
        raise ConfigRefused(
            f"{version.name} answers an importance and no probability, so there is no temperature to fit"
        )
    fitted = calibrate(open_detector(context, detector_id), validation, report=context.report)
    calibration = asdict(fitted)
    chart = context.workspace.path / PICTURES / f"{detector_id}.svg"
    chart.parent.mkdir(exist_ok=True)
    chart.write_text(reliability_svg(fitted))
    with context.workspace.catalog() as catalog:
        catalog.detectors.record_metrics(detector_id, {"calibration": calibration})
        catalog.commit()
    return calibration


def format_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as lines of text."""
    header = ["detector", "role", "flags from", *RATES, *FIGURES, *(f"real {name}" for name in REAL)]
    lines = [header]
    for row in rows:
        name = f"{'★ ' * row['champion']}{row['name']}{' (clinic)' * (row['domain'] == CLINIC)}"
        lines.append(
            [
                name,
                row["role"],
                f"{row['operating_point']['flagged']:.3f}",
                *(_format_figure(row[key]) for key in (*RATES, *FIGURES, *(f"real_{key}" for key in REAL))),
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    points = [f"{row['name']} {row['operating_point']['text']}" for row in rows]
    limits = [
        f"{row['name']}: {row['licence']} forbids {forbidden}"
        for row in rows
        if (forbidden := forbidden_by(row["licence"]))
    ]
    return table + points + limits


def _row(version: DetectorVersion, metrics: Mapping[str, Any], split: str) -> dict[str, Any]:
    hard, real = metrics.get(split, {}), metrics.get(f"{split}_real", {})
    return {
        "detector": version.id,
        "name": version.name,
        "role": version.role,
        "round": version.round_id,
        "domain": version.domain,
        "licence": version.licence,
        "pretrained": metrics.get("training", {}).get("pretrained", ""),
        "images": hard.get("images", 0),
        "order": metrics.get("validation", {}).get("mse"),
        **{name: hard.get(name) for name in FIGURES},
        **{name: (hard | hard.get("operating", {})).get(name) for name in RATES},
        "operating": hard.get("operating"),
        "at_half": hard.get("at_half"),
        "operating_point": describe_point(version),
        **{f"real_{name}": real.get(name) for name in REAL},
        "intervals": hard.get("intervals", {}),
        "categories": hard.get("categories", {}),
        "classes": hard.get("classes", {}),
        "temperature": metrics.get("calibration", {}).get("temperature"),
    }


def _format_figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
