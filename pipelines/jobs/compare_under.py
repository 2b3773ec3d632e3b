"""Does a LoRA hold where people draw? Artifact frequency with and without it, condition by condition.

Input: two generators, prompts, a detector, or another measure of images. Output: one cell per condition with
its ratio to the base in the same cell. Cost: for each cell, the images of all prompts by both generators; a
cell that was measured before is not drawn again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.errors import ConfigRefused, ModelRefused, OutOfMemory, reason_of
from dataengine.images import encode_png
from dataengine.quality.guard import detail_energy, ratio
from dataengine.quality.intervals import ratio_of_means
from dataengine.records import GeneratorVersion, digest, threshold_of
from dataengine.statistics import wilson
from pipelines.config import ComparisonRun, GenerateConfig
from pipelines.generators.conditions import (
    USUAL,
    Condition,
    conditions_of,
    draw_under,
    open_under,
)
from pipelines.generators.files import sampling_of, weights_of
from pipelines.jobs.treat_generator import BATCH, FIRST_SEED
from pipelines.runtime.context import Context, Result
from pipelines.runtime.devices import naming_out_of_memory

Measure = Callable[[np.ndarray], Sequence[float]]
"""Images uint8 NHWC to the highest confidence of an artifact in each, in [0, 1]."""
EXAMPLES = 4
"""Images of each cell that are shown."""
SMALLER = "draw fewer pixels (sampling.height, sampling.width), or leave this axis out (conditions.axes)"
HOLDS, BAD, NOTHING = "holds", "bad", "no artifacts in the base"
MERGE = "merge the LoRA before quantising: {name} is bad with the LoRA beside the rounded weights"


def compare_under(
    context: Context,
    run: ComparisonRun,
    prompts: Sequence[str],
    folder: Path,
    second: Path | None = None,
    measure: Measure | None = None,
    threshold: float | None = None,
) -> Result:
    """Cells of all conditions, and those that are bad. Examples of each cell are written below `folder`.

    `measure` and `threshold` replace the run's detector and its operating point. A condition that cannot be
    drawn is named with its reason.
    """
    with context.workspace.catalog(read_only=True) as catalog:
        versions = [catalog.generators.get(id) for id in (run.before, run.after)]
        detector = catalog.detectors.get(run.detector) if measure is None else None
    if detector is not None:
        measure, threshold = _by_detector(context, detector.checkpoint), threshold_of(detector)
    assert measure is not None and threshold is not None
    lora = versions[1].lora is not None
    family = open_under(context, versions[0], USUAL, None)
    cells, left_out = conditions_of(
        family, weights_of(versions[0]), run.conditions.axes, lora, second is not None
    )
    del family
    work = _Cells(context, run, versions, list(prompts), folder, second, measure)
    for group in _by_weights(cells):
        work.measure_group(group)
    rows = []
    for condition in cells:
        if reason := work.failure(condition):
            left_out.append((condition.name, reason))
            continue
        before, after = work.stored(0, condition.of_base), work.stored(1, condition)
        rows.append(_cell(condition, before, after, work.asked, threshold, run.conditions.limit))
    bad = [row["name"] for row in rows if row["verdict"] == BAD]
    return {
        "limit": run.conditions.limit,
        "threshold": threshold,
        "prompts": len(prompts),
        "images": len(work.asked),
        "cells": rows,
        "held": sum(row["verdict"] == HOLDS for row in rows),
        "bad": bad,
        "advice": [MERGE.format(name=name) for name in bad if _mended(name, rows)],
        "left_out": [{"name": name, "reason": reason} for name, reason in left_out],
    }


class _Cells:
    """Draws and measures cells, each once."""

    def __init__(
        self,
        context: Context,
        run: ComparisonRun,
        versions: Sequence[GeneratorVersion],
        prompts: Sequence[str],
        folder: Path,
        second: Path | None,
        measure: Measure,
    ) -> None:
        self._context, self._versions, self._second = context, versions, second
        self._folder, self._measure = folder, measure
        self._usual = sampling_of(versions[0], GenerateConfig(sampling=run.sampling))
        self.asked = [prompt for prompt in prompts for _ in range(run.seeds)]
        self._seeds = [FIRST_SEED + row for row in range(len(self.asked))]
        settings = self._usual.model_dump_json(exclude={"batch"})
        self._id = f"under-{digest(run.before, run.after, run.detector, settings, *self.asked)[:16]}"
        self._failed: dict[str, str] = {}
        """Why a cell's images could not be drawn, by the cell's file."""

    def measure_group(self, group: Sequence[Condition]) -> None:
        """Measure conditions that share their weights, with each generator opened once. What cannot be drawn
        is noted, and the rest goes on."""
        for side in (0, 1):
            wanted = {self._file(side, each): each for each in self._of_side(side, group)}
            missing = {file: each for file, each in wanted.items() if self._known(file) is None}
            family: Any = None
            for file, each in missing.items():
                self._context.may_pause()
                try:
                    with naming_out_of_memory(f"drawing {each.name or 'the base'}", SMALLER):
                        if family is None:
                            family = open_under(self._context, self._versions[side], each, self._second)
                        self._measure_cell(side, family, each, file)
                except (ConfigRefused, ModelRefused, OutOfMemory, RuntimeError, ValueError) as error:
                    # Of a pipeline or scheduler that others wrote: one cell must not end hours of work.
                    self._failed[file] = reason_of(error)

    def failure(self, condition: Condition) -> str | None:
        """Why the condition could not be drawn by one of the generators; None if it could."""
        files = self._file(0, condition.of_base), self._file(1, condition)
        return next((self._failed[file] for file in files if file in self._failed), None)

    def stored(self, side: int, condition: Condition) -> dict[str, Any]:
        """What was measured of a cell."""
        found: dict[str, Any] = self._known(self._file(side, condition))
        return found

    def _known(self, file: str) -> Any:
        return self._context.workspace.job_files.get(self._id, file)

    def _of_side(self, side: int, group: Sequence[Condition]) -> list[Condition]:
        return list(group) if side else [each.of_base for each in group]

    def _measure_cell(self, side: int, family: Any, condition: Condition, file: str) -> None:
        version = self._versions[side]
        name = condition.name or "the base"
        self._context.report(0, len(self.asked), f"{version.name}: {name}")
        own = float(version.settings.get("strength") or 1.0)
        images = draw_under(self._context, family, condition, self.asked, self._seeds, self._usual, own)
        highest = [float(value) for value in self._measure(images)]
        strip = np.concatenate(list(images[:: max(1, len(images) // EXAMPLES)][:EXAMPLES]), axis=1)
        self._folder.mkdir(parents=True, exist_ok=True)
        example = f"{file.removesuffix('.json')}.png"
        (self._folder / example).write_bytes(encode_png(strip))
        row = {"highest": highest, "detail": detail_energy(images), "example": example}
        self._context.workspace.job_files.put(self._id, file, row)

    def _file(self, side: int, condition: Condition) -> str:
        facts = asdict(replace(condition, name="", axis=None))
        second = str(self._second) if condition.second else ""
        return f"{('before', 'after')[side]}-{digest(str(sorted(facts.items())), second)[:12]}.json"


def _cell(
    condition: Condition,
    before: dict[str, Any],
    after: dict[str, Any],
    prompts: Sequence[str],
    threshold: float,
    limit: float,
) -> dict[str, Any]:
    """One cell: frequencies, their ratio with its interval over prompts, the change of detail, a verdict."""
    flagged, flagged_after = ([v >= threshold for v in side["highest"]] for side in (before, after))
    value, interval = ratio_of_means(flagged, flagged_after, prompts)
    # Of images that are counted, no ratio is larger; resamples without any before would give one.
    interval = interval[0], min(interval[1], float(len(prompts)))
    known = any(flagged)
    if known and not any(flagged_after):
        # Resampling no artifact gives none.
        interval = 0.0, wilson(0, len(prompts))[1] / float(np.mean(flagged))
    verdict = NOTHING if not known else HOLDS if value <= limit else BAD
    return {
        "name": condition.name,
        "axis": condition.axis or "",
        "before": float(np.mean(flagged)),
        "after": float(np.mean(flagged_after)),
        "ratio": value if known else None,
        "interval": list(interval) if known else None,
        "sure": known and not interval[0] <= limit <= interval[1],
        "detail": ratio(after["detail"], before["detail"]),
        "verdict": verdict,
        "examples": [before["example"], after["example"]],
    }


def _mended(name: str, rows: Sequence[dict[str, Any]]) -> bool:
    return any(row["name"] == f"{name}, merged before" and row["verdict"] == HOLDS for row in rows)


def _by_weights(cells: Iterable[Condition]) -> list[list[Condition]]:
    """The conditions in groups that share their weights, in their order."""
    groups: dict[tuple[Any, ...], list[Condition]] = {}
    for each in cells:
        groups.setdefault((each.weights, each.merged, each.second), []).append(each)
    return list(groups.values())


def _by_detector(context: Context, checkpoint: str) -> Measure:
    detector = context.models.open_detector(context.workspace.checkpoints.fetch(checkpoint))

    def measure(images: np.ndarray) -> list[float]:
        return [float(found.max()) for found in context.models.artifact_maps(detector, list(images), BATCH)]

    return measure
