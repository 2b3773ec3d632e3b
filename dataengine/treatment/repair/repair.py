"""Redraw the artifacts of an image, and take a result only if it is better: never worse.

A candidate is taken if the detector no longer finds an artifact in its region, nothing new appears elsewhere,
and the chooser, another detector, does not find it worse. Of several, the one with the lowest confidence of
both is taken. A detector that judges its own repairs likes what it cannot see, so a chooser is advised.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from dataengine.masks import Confidence, Mask, components
from dataengine.records import OperatingPoint
from dataengine.treatment.repair.config import RepairConfig
from dataengine.treatment.repair.paste import Pixels, cut, paste
from dataengine.treatment.repair.regions import Region, choose_regions, drawing_size

SEEDS_APART = 1_000
"""Between the seeds of two regions of an image."""

Predict = Callable[[Sequence[Pixels]], Sequence[Confidence]]
"""Maps float32 HW in [0, 1] of images uint8 HW3."""

Redraw = Callable[[Sequence[Pixels], Sequence[Mask], Sequence[int]], Sequence[Pixels]]
"""Crops of the generator's size, uint8 HW3, with their masked pixels redrawn; one seed for each."""

Verdict = Literal["repaired", "still flawed", "something new appeared", "the chooser found it worse"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Canvas:
    """What a generator can draw, and how."""

    redraw: Redraw
    size: tuple[int, int]
    """Its own height and width in pixels."""
    multiple: int
    """Sides must be multiples of this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """A detector with its operating point."""

    predict: Predict
    point: OperatingPoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a region."""

    region: Region
    verdict: Verdict
    draw: int | None = None
    """Number of the candidate that was taken, from 0."""
    peak: float = 0.0
    """The detector's highest confidence in the region afterwards; before it, if the region stayed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """A repaired image; where nothing could be improved, the original itself."""

    pixels: Pixels
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether any region was taken."""
        return any(outcome.verdict == "repaired" for outcome in self.outcomes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    draw: int
    pixels: Pixels
    peak: float
    score: float


def repair_image(
    image: Pixels,
    detector: Judge,
    chooser: Judge | None,
    canvas: Canvas,
    config: RepairConfig,
    among: Mask | None = None,
) -> Repair:
    """Repair one image uint8 HW3; with `among`, bool HW, only artifacts that overlap it.

    Raises `InputRefused` when its artifacts cover too much of it, or it is too small for the generator.
    """
    judges = [detector] if chooser is None else [detector, chooser]
    before = [judge.predict([image])[0] for judge in judges]
    regions = choose_regions(before[0], detector.point, canvas.size, config, among)
    outcomes, taken = [], image
    for number, region in enumerate(regions):
        best, verdict = _best(image, region, number, judges, before, canvas, config)
        if best is None:
            outcomes.append(Outcome(region=region, verdict=verdict, peak=region.peak))
            continue
        taken = np.where(region.mask[..., None], best.pixels, taken)
        outcomes.append(Outcome(region=region, verdict="repaired", draw=best.draw, peak=best.peak))
    return _checked(image, Repair(pixels=taken, outcomes=outcomes), judges, before)


def _best(
    image: Pixels,
    region: Region,
    number: int,
    judges: Sequence[Judge],
    before: Sequence[Confidence],
    canvas: Canvas,
    config: RepairConfig,
) -> tuple[_Candidate | None, Verdict]:
    """The candidate of a region that all judges like best; without one, the commonest reason."""
    crop, mask = cut(image, region, drawing_size(region.crop.size, canvas.size, canvas.multiple))
    seeds = [config.seed + SEEDS_APART * number + draw for draw in range(config.draws)]
    redrawn = canvas.redraw([crop] * len(seeds), [mask] * len(seeds), seeds)
    feather = config.feather * config.grow * min(image.shape[:2])
    images = [paste(image, region, each, feather) for each in redrawn]
    maps = list(zip(*(judge.predict(images) for judge in judges), strict=True))
    verdicts = [_verdict(each, region.mask, judges, before) for each in maps]
    candidates = [
        _Candidate(
            draw=draw,
            pixels=images[draw],
            peak=float(maps[draw][0][region.mask].max()),
            score=float(np.mean([each[region.mask].max() for each in maps[draw]])),
        )
        for draw, verdict in enumerate(verdicts)
        if verdict == "repaired"
    ]
    if not candidates:
        return None, max(sorted(set(verdicts)), key=verdicts.count)
    return min(candidates, key=lambda each: each.score), "repaired"


def _verdict(
    maps: Sequence[Confidence], mask: Mask, judges: Sequence[Judge], before: Sequence[Confidence]
) -> Verdict:
    """Whether a candidate is better than the image, by the judges' maps of both; `mask` is what changed."""
    if maps[0][mask].max() >= judges[0].point.flagged:
        return "still flawed"
    if new_artifact(before[0], maps[0], judges[0].point):
        return "something new appeared"
    for judge, old, new in zip(judges[1:], before[1:], maps[1:], strict=True):
        limit = max(judge.point.flagged, float(old[mask].max()))
        if new[mask].max() >= limit or new_artifact(old, new, judge.point):
            return "the chooser found it worse"
    return "repaired"


def new_artifact(before: Confidence, after: Confidence, point: OperatingPoint) -> bool:
    """Whether a flagged component of the second map overlaps none of the first."""
    numbers, count = components(after >= point.component)
    known = np.unique(numbers[before >= point.component])
    fresh = np.setdiff1d(np.arange(1, count + 1), known)
    return bool(len(fresh)) and bool(after[np.isin(numbers, fresh)].max() >= point.flagged)


def _checked(image: Pixels, repair: Repair, judges: Sequence[Judge], before: Sequence[Confidence]) -> Repair:
    """The repair if its regions are still good together, else the original: each was judged alone."""
    taken = [outcome for outcome in repair.outcomes if outcome.verdict == "repaired"]
    if len(taken) < 2:
        return repair
    union = np.logical_or.reduce([outcome.region.mask for outcome in taken])
    verdict = _verdict([judge.predict([repair.pixels])[0] for judge in judges], union, judges, before)
    if verdict == "repaired":
        return repair
    undone = [
        Outcome(region=each.region, verdict=verdict, peak=each.region.peak)
        if each.verdict == "repaired"
        else each
        for each in repair.outcomes
    ]
    return Repair(pixels=image, outcomes=undone)
