"""Compare a treated generator with its base on the same prompts and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dataengine.quality.guard import detail_energy, diversity
from dataengine.quality.intervals import mean_difference, ratio_of_means
from dataengine.records import THRESHOLD, Image, Prediction
from pipelines.runtime.context import Context
from pipelines.runtime.images import read_stacked

if TYPE_CHECKING:
    from pipelines.runtime.models import AttributeReader


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
    prompts = [pair.before.prompt for pair in pairs]
    reader = context.models.open_attributes(attributes) if attributes else None
    before = _qualities(context, [pair.before for pair in pairs], prompts, reader)
    after = _qualities(context, [pair.after for pair in pairs], prompts, reader)
    figures: dict[str, object] = {
        "detail": _compare_means(before.detail, after.detail, prompts),
        "diversity": _compare_means(
            list(before.diversity.values()), list(after.diversity.values()), list(before.diversity)
        ),
    }
    if reader is not None:
        drop, interval = mean_difference(after.shown, before.shown, prompts)
        figures["attributes"] = {
            "before": float(np.mean(before.shown)),
            "after": float(np.mean(after.shown)),
            "drop": drop,
            "interval": list(interval),
        }
    return figures


@dataclass(frozen=True, kw_only=True)
class _Qualities:
    detail: list[float]
    """Per image."""
    diversity: dict[str, float]
    """Per prompt, in the order of first appearance; without those of a single seed."""
    shown: list[float]
    """Share of the prompt's attributes per image; empty without a reader."""


def _qualities(
    context: Context, images: Sequence[Image], prompts: Sequence[str], reader: "AttributeReader | None"
) -> _Qualities:
    """Measured prompt by prompt, so that memory holds the images of one."""
    rows: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(index)
    detail, shown = [0.0] * len(images), [0.0] * len(images) if reader else []
    diversities: dict[str, float] = {}
    for prompt, group in rows.items():
        pixels = read_stacked(context.workspace, [images[index] for index in group])
        if len(group) > 1:
            diversities[prompt] = diversity(pixels, len(group))
        for place, index in enumerate(group):
            detail[index] = detail_energy(pixels[place : place + 1])
        if reader is not None:
            for index, share in zip(group, reader.match(pixels, [prompt] * len(group)), strict=True):
                shown[index] = float(share)
    return _Qualities(detail=detail, diversity=diversities, shown=shown)


def _compare_means(
    before: Sequence[float] | np.ndarray, after: Sequence[float] | np.ndarray, prompts: Sequence[str]
) -> dict[str, object]:
    """Means before and after, and the ratio of the means with its interval over prompts. What is undefined is
    None: the ratio to a mean of 0, and everything where no value is known."""
    if not len(before):
        return dict.fromkeys(("before", "after", "ratio", "interval"))
    if not np.any(before):
        return {"before": 0.0, "after": float(np.mean(after)), "ratio": None, "interval": None}
    value, interval = ratio_of_means(before, after, prompts)
    return {
        "before": float(np.mean(before)),
        "after": float(np.mean(after)),
        "ratio": value,
        "interval": list(interval),
    }
