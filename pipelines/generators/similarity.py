"""How much a treatment changed images: PSNR, SSIM and LPIPS of pairs of one prompt and seed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.errors import ImageRefused, ModelRefused
from dataengine.quality.intervals import mean_difference
from dataengine.quality.similarity import psnr, ssim
from pipelines.generators.comparison import Pair
from pipelines.runtime.context import Context
from pipelines.runtime.images import read_stacked

if TYPE_CHECKING:
    from dataengine.quality.distances import FeatureNetwork

MEASURES = ("psnr", "ssim", "lpips")
NO_WEIGHTS = (
    "LPIPS not measured: it needs torchvision's AlexNet weights as a .safetensors file (setting lpips)"
)
ALEXNET = "alexnet"


def open_lpips(context: Context, weights: str) -> "FeatureNetwork | None":
    """LPIPS's network from torchvision's AlexNet weights in a safetensors file; None where none is named.

    Raises `ModelRefused` for a file that does not fit.
    """
    if not weights:
        return None
    if not Path(weights).is_file():
        raise ModelRefused(f"lpips is {weights!r}, and there is no such file; leave it empty, or name one")
    from dataengine.quality.distances import TorchvisionFeatures

    return TorchvisionFeatures(ALEXNET, Path(weights), context.models.device)


def pair_similarity(
    context: Context, pairs: Sequence[Pair], network: "FeatureNetwork | None"
) -> list[dict[str, Any]]:
    """One row per pair: prompt, seed, ids of both images, and the measures. `psnr` is None for equal images,
    `ssim` for images below its window, `lpips` without a network."""
    rows = []
    for number, pair in enumerate(pairs):
        context.report(number, len(pairs), "comparing images")
        before, after = (read_stacked(context.workspace, [each]) for each in (pair.before, pair.after))
        row: dict[str, Any] = {"prompt": pair.before.prompt, "seed": pair.before.seed}
        row |= {"before": pair.before.id, "after": pair.after.id}
        rows.append(row | _measures(before, after, network))
    return rows


def _measures(
    before: np.ndarray, after: np.ndarray, network: "FeatureNetwork | None"
) -> dict[str, float | None]:
    """The measures of one pair of uint8 1HW3 images."""
    from dataengine.quality.distances import perceptual_distance

    ratio = float(psnr(before, after)[0])
    try:
        structure: float | None = float(ssim(before, after)[0])
    except ImageRefused:
        structure = None
    distance = None if network is None else float(perceptual_distance(before, after, network)[0])
    return {"psnr": ratio if math.isfinite(ratio) else None, "ssim": structure, "lpips": distance}


def similarity_figures(rows: Sequence[dict[str, Any]], network: "FeatureNetwork | None") -> dict[str, Any]:
    """Means of the measures with 95 % intervals over prompts; equal pairs are counted and left out of
    PSNR, which is infinite there. `note` says what could not be measured."""
    figures: dict[str, Any] = {"identical": sum(row["psnr"] is None for row in rows)}
    for name in MEASURES:
        measured = [(row[name], row["prompt"]) for row in rows if row[name] is not None]
        if not measured:
            figures[name] = None
            continue
        values, prompts = zip(*measured, strict=True)
        mean, interval = mean_difference([0.0] * len(values), values, prompts)
        figures[name] = {"mean": mean, "interval": list(interval)}
    figures["note"] = "" if network is not None else NO_WEIGHTS
    return figures
