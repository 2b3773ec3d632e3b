"""Operating points: the confidences from which a detector flags, and its misses and false alarms there.

Squared error on sparse masks rewards a quiet detector, and at a fixed threshold a quiet detector misses.
So every detector gets thresholds of its own, chosen on validation images. A threshold for images is halfway
between two neighbouring maxima of the validation images; of these, only those count that flag a larger share
of the flawed images than of the others, since a detector that flags all alike says nothing. NumPy only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dataengine.diagnosis.config import OperatingPointConfig
from dataengine.diagnosis.dataset import Sample
from dataengine.diagnosis.image_metrics import ANY_CLASS, ImageMetrics, covered_components, image_metrics
from dataengine.diagnosis.intervals import HIGHER_IS_BETTER
from dataengine.diagnosis.ranking import LEVELS, average_precision
from dataengine.records import THRESHOLD, OperatingPoint
from dataengine.statistics import (
    Interval,
    Verdict,
    bootstrap_weights,
    percentile_interval,
    verdict_of,
    wilson,
)

DRAWS = 500
BETA = 2
"""F-β: recall weighs β times as much as precision."""
CANDIDATES = np.unique(np.rint((LEVELS - 1) / (1 + np.exp(-np.arange(-5.5, 5.6, 0.35))))) - 0.5
CANDIDATES = CANDIDATES[CANDIDATES > 0] / (LEVELS - 1)
"""Candidate thresholds of components, float64: evenly spaced logits, between levels of 8-bit maps."""

EQUAL_ALARMS = "miss_at_equal_alarms"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ComponentCounts:
    """Predicted components of one map at each of `CANDIDATES`, int64: all, and those that match the truth."""

    predicted: NDArray[np.int64]
    right: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassMisses:
    """Components of one class."""

    components: int
    miss: float
    """Share without an overlapping pixel at or above the component threshold."""
    interval: Interval
    """95 % interval of the miss rate, over images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingFigures:
    """Misses and false alarms of a detector at given thresholds. A rate over no images is None."""

    flagged: float
    component: float
    flawed: int
    clean: int
    miss: float | None
    """Share of flawed images with no pixel at or above `flagged`."""
    false_alarm: float | None
    """Share of images without a flaw that have a pixel at or above `flagged`."""
    classes: dict[str, ClassMisses]
    """By class number, where the images carry label maps."""
    intervals: dict[str, Interval]
    """95 % Wilson intervals of `miss` and `false_alarm`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One figure of two detectors on the same images."""

    before: float
    after: float
    interval: Interval
    """95 % paired bootstrap interval of after − before, over images."""
    verdict: Verdict
    """Within noise if the interval holds 0."""


def count_components(p: np.ndarray, q: np.ndarray) -> ComponentCounts:
    """Count the components of a predicted map `q` against its true map `p`, both HW in [0, 1].

    A predicted component is right if a share of `OVERLAP` or more of its pixels is truly flawed.
    """
    truth = np.asarray(p) >= THRESHOLD
    counts = [covered_components(np.asarray(q) >= threshold, truth) for threshold in CANDIDATES]
    right, predicted = np.array(counts, dtype=np.int64).T
    return ComponentCounts(predicted=predicted, right=right)


def operating_point_of(
    examples: Iterable[tuple[Sample, np.ndarray]], config: OperatingPointConfig | None = None
) -> OperatingPoint:
    """Choose thresholds on validation examples with their predicted maps, float HW in [0, 1]."""
    rows, counts = [], []
    for sample, q in examples:
        rows.append(image_metrics(sample.target, q, label_map=sample.label_map))
        counts.append(count_components(sample.target, q))
    return choose_operating_point(rows, counts, config)


def choose_operating_point(
    rows: Sequence[ImageMetrics],
    counts: Sequence[ComponentCounts] = (),
    config: OperatingPointConfig | None = None,
) -> OperatingPoint:
    """Choose thresholds by the metrics of validation images, and by their components' counts where given.

    Ties go to the lower threshold of images, and to the higher one of components. Where no threshold can be
    chosen both are `THRESHOLD`, and `reason` says why. Without `counts` components share the images'
    threshold.
    """
    config = config or OperatingPointConfig()
    flawed = np.array([row.flawed for row in rows], dtype=bool)
    maxima = np.array([row.max for row in rows], dtype=np.float64)
    fixed = OperatingPoint(flawed=int(flawed.sum()), clean=int((~flawed).sum()))
    if reason := _undecidable(maxima, flawed):
        return replace(fixed, reason=reason)
    flagged = _thresholds_of_draws(maxima, flawed, np.ones((1, len(rows))), config)[0]
    if np.isnan(flagged):
        return replace(fixed, reason=_no_threshold(config))
    draws = _thresholds_of_draws(maxima, flawed, bootstrap_weights(len(rows), DRAWS), config)
    found = draws[~np.isnan(draws)]
    return replace(
        fixed,
        flagged=float(flagged),
        component=_component_threshold(rows, counts, float(flagged)),
        rule=_rule_in_words(config),
        interval=percentile_interval(found) if len(found) > DRAWS / 2 else None,
    )


def figures_at(rows: Sequence[ImageMetrics], flagged: float, component: float) -> OperatingFigures:
    """Misses and false alarms at these thresholds, from the metrics of a set's images."""
    flawed = [row for row in rows if row.flawed]
    clean = [row for row in rows if not row.flawed]
    missed = sum(row.max < flagged for row in flawed)
    alarms = sum(row.max >= flagged for row in clean)
    numbers = sorted({number for row in rows for number in row.peaks} - {ANY_CLASS})
    return OperatingFigures(
        flagged=flagged,
        component=component,
        flawed=len(flawed),
        clean=len(clean),
        miss=missed / len(flawed) if flawed else None,
        false_alarm=alarms / len(clean) if clean else None,
        classes={str(number): _class_misses(rows, number, component) for number in numbers},
        intervals={
            name: wilson(count, len(images))
            for name, count, images in (("miss", missed, flawed), ("false_alarm", alarms, clean))
            if images
        },
    )


def compare_at(
    before: Sequence[ImageMetrics],
    after: Sequence[ImageMetrics],
    own: tuple[OperatingPoint, OperatingPoint],
    draws: int = DRAWS,
) -> dict[str, Difference]:
    """Errors, misses, false alarms and pixel AP of two detectors on the same images, each at its own point;
    `EQUAL_ALARMS` are the misses if the second one's threshold is moved to the first one's false alarms.

    `before` and `after` hold the same images in the same order. A figure that is undefined, in the set or in
    most resamples, is left out.
    """
    weights = np.vstack([np.ones(len(before)), bootstrap_weights(len(before), draws)])
    old_figures, new_figures = (
        _replicates(rows, point, weights) for rows, point in zip((before, after), own, strict=True)
    )
    if not all(row.flawed for row in before):
        moved = replace(own[1], flagged=_threshold_with_alarms(after, _count_alarms(before, own[0].flagged)))
        old_figures[EQUAL_ALARMS] = old_figures["miss"]
        new_figures[EQUAL_ALARMS] = _replicates(after, moved, weights)["miss"]
    found: dict[str, Difference] = {}
    for name, old in old_figures.items():
        new = new_figures[name]
        changes = (new - old)[1:]
        known = changes[np.isfinite(changes)]
        if not np.isfinite(new[0] - old[0]) or len(known) <= draws / 2:
            continue
        interval = percentile_interval(known)
        found[name] = Difference(
            before=float(old[0]),
            after=float(new[0]),
            interval=interval,
            verdict=verdict_of(interval, lower_is_better=name not in HIGHER_IS_BETTER),
        )
    return found


def _count_alarms(rows: Sequence[ImageMetrics], flagged: float) -> int:
    return sum(row.max >= flagged for row in rows if not row.flawed)


def _threshold_with_alarms(rows: Sequence[ImageMetrics], alarms: int) -> float:
    """The lowest threshold at which at most that many images without a flaw are flagged."""
    maxima = sorted((row.max for row in rows if not row.flawed), reverse=True)
    return float(np.nextafter(maxima[alarms], np.inf)) if alarms < len(maxima) else 0.0


def _undecidable(maxima: Floats, flawed: NDArray[np.bool_]) -> str:
    if not flawed.any():
        return "no validation image is flawed" if len(flawed) else "there are no labelled validation images"
    if flawed.all():
        return "every validation image is flawed"
    if maxima.min() == maxima.max():
        return f"the highest confidence is {maxima[0]:.4g} in every validation image"
    return ""


def _rule_in_words(config: OperatingPointConfig) -> str:
    if config.rule == "recall_at":
        return f"recall at {config.false_alarm:g} false alarms"
    return f"false alarms at {config.recall:g} recall" if config.rule == "false_alarm_at" else "f2"


def _no_threshold(config: OperatingPointConfig) -> str:
    limit = ""
    if config.rule == "recall_at":
        limit = f" while flagging at most {config.false_alarm:g} of those"
    elif config.rule == "false_alarm_at":
        limit = f" and {config.recall:g} of them or more"
    return f"no threshold flags more of the flawed validation images than of those without a flaw{limit}"


def _thresholds_of_draws(
    maxima: Floats, flawed: NDArray[np.bool_], weights: Floats, config: OperatingPointConfig
) -> Floats:
    """The threshold chosen for each row of image weights (draws, images), NaN where there is none."""
    order = np.argsort(maxima, kind="stable")
    values, starts = np.unique(maxima[order], return_index=True)

    def at_or_above(chosen: NDArray[np.bool_]) -> Floats:
        sums = np.add.reduceat((weights * chosen)[:, order], starts, axis=1)
        return np.cumsum(sums[:, ::-1], axis=1)[:, ::-1]

    hits, alarms = at_or_above(flawed), at_or_above(~flawed)
    positives, negatives = hits[:, :1], alarms[:, :1]
    with np.errstate(divide="ignore", invalid="ignore"):
        recall, false_alarm = hits / positives, alarms / negatives
        score = {
            "false_alarm_at": 1 - false_alarm,
            "f2": f_beta(hits, alarms, positives - hits),
            "recall_at": recall,
        }[config.rule]
    useful = recall > false_alarm
    if config.rule == "false_alarm_at":
        useful &= recall >= config.recall - 1e-12
    if config.rule == "recall_at":
        useful &= false_alarm <= config.false_alarm + 1e-12
        # Of equal recall the fewest false alarms: the last of the ascending thresholds.
        best = score.shape[1] - 1 - np.argmax(np.where(useful, score, -1.0)[:, ::-1], axis=1)
    else:
        best = np.argmax(np.where(useful, score, -1.0), axis=1)
    middles = (values + np.concatenate([values[:1], values[:-1]])) / 2
    # Between neighbouring floats there is no middle; the upper one flags the same images.
    middles[1:] = np.where(middles[1:] > values[:-1], middles[1:], values[1:])
    return np.where(useful.any(axis=1), middles[best], np.nan)


def f_beta(hits: np.ndarray, alarms: np.ndarray, misses: np.ndarray) -> Floats:
    """F-β with β = 2 (van Rijsbergen 1979): 5·TP / (5·TP + 4·FN + FP)."""
    weighted = (1 + BETA**2) * np.asarray(hits, dtype=np.float64)
    return weighted / (weighted + BETA**2 * np.asarray(misses) + np.asarray(alarms))


def _component_threshold(
    rows: Sequence[ImageMetrics], counts: Sequence[ComponentCounts], flagged: float
) -> float:
    """The candidate at most `flagged` with the highest F2 of components; `flagged` where there is none.

    Precision is the share of predicted components that are right, recall the share of true components with
    an overlapping pixel.
    """
    allowed = flagged >= CANDIDATES
    peaks = np.array([peak for row in rows for peak in row.peaks.get(ANY_CLASS, ())])
    if not counts or not len(peaks) or not allowed.any():
        return flagged
    predicted = np.sum([each.predicted for each in counts], axis=0)
    precision = np.sum([each.right for each in counts], axis=0) / np.maximum(predicted, 1)
    recall = np.mean(peaks[:, None] >= CANDIDATES, axis=0)
    score = (1 + BETA**2) * precision * recall / np.maximum(BETA**2 * precision + recall, 1e-12)
    score = score[allowed]
    return float(CANDIDATES[allowed][len(score) - 1 - np.argmax(score[::-1])]) if score.any() else flagged


def _class_misses(rows: Sequence[ImageMetrics], number: int, component: float) -> ClassMisses:
    missed, components = _missed_components(rows, number, component)
    images = int(np.count_nonzero(components))
    share = float(missed.sum() / components.sum())
    if share in (0.0, 1.0):
        # Resampling sees no variation; of how many images it can speak, Wilson's interval still tells.
        return ClassMisses(
            components=int(components.sum()), miss=share, interval=wilson(int(share) * images, images)
        )
    weights = bootstrap_weights(len(rows), DRAWS)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (weights @ missed) / (weights @ components)
    return ClassMisses(
        components=int(components.sum()),
        miss=share,
        interval=percentile_interval(shares[np.isfinite(shares)]),
    )


def _missed_components(rows: Sequence[ImageMetrics], number: int, component: float) -> tuple[Floats, Floats]:
    """Missed components of a class and all of them, by image."""
    peaks = [np.array(row.peaks.get(number, ())) for row in rows]
    missed = np.array([np.count_nonzero(each < component) for each in peaks], dtype=np.float64)
    return missed, np.array([len(each) for each in peaks], dtype=np.float64)


def _replicates(rows: Sequence[ImageMetrics], point: OperatingPoint, weights: Floats) -> dict[str, Floats]:
    """Each figure by resample of the images, (draws,); NaN where it is undefined."""
    flawed = np.array([row.flawed for row in rows], dtype=np.float64)
    alarm = np.array([row.max >= point.flagged for row in rows], dtype=np.float64)
    classes = sorted({number for row in rows for number in row.peaks} - {ANY_CLASS})
    parts = {number: _missed_components(rows, number, point.component) for number in classes}
    inside, outside = (
        weights @ np.array([getattr(row, name) for row in rows], dtype=np.float64)
        for name in ("inside", "outside")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            **{
                name: weights @ np.array([getattr(row, name) for row in rows]) / weights.sum(axis=1)
                for name in ("mse", "kl", "kl1m")
            },
            "miss": (weights @ (flawed * (1 - alarm))) / (weights @ flawed),
            "false_alarm": (weights @ ((1 - flawed) * alarm)) / (weights @ (1 - flawed)),
            "pixel_ap": average_precision(inside, outside),
            **{
                f"miss_class_{number}": (weights @ missed) / (weights @ components)
                for number, (missed, components) in parts.items()
            },
        }
