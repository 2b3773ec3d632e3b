"""Compare a treated generator with its base on the same prompts and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataengine.quality.guard import detail_energy, diversity
from dataengine.quality.intervals import mean_difference, ratio_of_means
from dataengine.records import THRESHOLD, Image, Prediction
from pipelines.runtime.context import Context
from pipelines.runtime.images import read_stacked


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Images of one prompt and seed, by the base and by the treated generator."""

    before: Image
    after: Image


def confidence_figures(
    pairs: Sequence[Pair], before: Sequence[Prediction], after: Sequence[Prediction], threshold: float
) -> dict[str, object]:
    """Confidence of the treating detector (DiffDoctor's treatment metrics): means, and ratios with intervals.

    "frequency" is the paper's artifact frequency, at `THRESHOLD`; "flagged" the share of images whose maximum
    confidence is at least `threshold`, the detector's own.
    """
    prompts = [pair.before.prompt for pair in pairs]
    figures: dict[str, object] = {}
    for name in ("mean", "max"):
        figures[f"{name}_confidence"] = _compare_means(
            [getattr(found, name) for found in before], [getattr(found, name) for found in after], prompts
        )
    for name, level in (("frequency", THRESHOLD), ("flagged", threshold)):
        figures[name] = _compare_means(
            [found.max >= level for found in before], [found.max >= level for found in after], prompts
        )
    return figures | {"threshold": threshold}


def quality_figures(context: Context, pairs: Sequence[Pair], attributes: str) -> dict[str, object]:
    """Image quality before and after: prompted attributes shown, detail, and diversity among the seeds of a
    prompt.

    `attributes` names the model that checks the attributes; "" skips the check.
    """
    before = read_stacked(context.workspace, [pair.before for pair in pairs])
    after = read_stacked(context.workspace, [pair.after for pair in pairs])
    prompts = [pair.before.prompt for pair in pairs]
    figures: dict[str, object] = {
        "detail": _compare_means(_detail_of_each(before), _detail_of_each(after), prompts),
        "diversity": _compare_means(
            _diversity_of_each(before, prompts),
            _diversity_of_each(after, prompts),
            list(dict.fromkeys(prompts)),
        ),
    }
    if attributes:
        reader = context.models.open_attributes(attributes)
        shown_before, shown_after = reader.match(before, prompts), reader.match(after, prompts)
        drop, interval = mean_difference(shown_after, shown_before, prompts)
        figures["attributes"] = {
            "before": float(np.mean(shown_before)),
            "after": float(np.mean(shown_after)),
            "drop": drop,
            "interval": list(interval),
        }
    return figures


def _detail_of_each(images: np.ndarray) -> list[float]:
    return [detail_energy(image[None]) for image in images]


def _diversity_of_each(images: np.ndarray, prompts: Sequence[str]) -> list[float]:
    """Diversity among the seeds of each prompt, in the order of first appearance; 0 for a single seed."""
    rows: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(index)
    return [diversity(images[group], len(group)) if len(group) > 1 else 0.0 for group in rows.values()]


def _compare_means(
    before: Sequence[float] | np.ndarray, after: Sequence[float] | np.ndarray, prompts: Sequence[str]
) -> dict[str, object]:
    """Means before and after, and the ratio of the means with its interval over prompts."""
    value, interval = ratio_of_means(before, after, prompts)
    return {
        "before": float(np.mean(before)),
        "after": float(np.mean(after)),
        "ratio": value,
        "interval": list(interval),
    }
