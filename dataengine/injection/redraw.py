"""A region of a clean image redrawn short and noisy by a generator, with its exact label map (arXiv
2509.19589).

No torch: `plan_redraw` says what to draw, a generator's inpainting draws it, `redrawn` makes the result.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import InputRefused
from dataengine.injection.config import InjectionConfig
from dataengine.injection.inject import (
    SMALLEST_IMAGE,
    Injection,
    refuse_small,
    seed_of,
    smooth_region,
    visible_share,
)
from dataengine.injection.operations import SHAPE_DISTORTION, feather
from dataengine.masks import Mask

REDRAW = "redraw"
"""The kind of these artifacts, beside those of `config.KINDS`."""


@dataclass(frozen=True, kw_only=True)
class RedrawPlan:
    """The part of an image that the generator sees, and what it redraws of it."""

    window: tuple[slice, slice]
    """Rows and columns of the image, whose numbers the generator can draw."""
    region: Mask
    """Bool HW of the window."""
    seed: int
    """Seed of the generator's noise."""


def plan_redraw(
    size: tuple[int, int], name: str, config: InjectionConfig, drawn: tuple[int, int], multiple: int
) -> RedrawPlan:
    """Choose a region of an image of that (height, width); the same `name` and config give the same.

    The generator sees a window at the image's own scale, as large as the image and its own size `drawn`
    allow, with sides that are multiples of `multiple`. Raises `InputRefused` where there is none of 32
    pixels.
    """
    refuse_small(*size)
    sides = [min(side, own) // multiple * multiple for side, own in zip(size, drawn, strict=True)]
    if min(sides) < SMALLEST_IMAGE:
        smallest = -(-SMALLEST_IMAGE // multiple) * multiple
        raise InputRefused(
            f"an image of {size[0]}×{size[1]} pixels is too small for this generator, which draws sides of "
            f"{smallest}, {smallest + multiple}, … up to {drawn[0]}×{drawn[1]}"
        )
    seed = seed_of(name, config.seed)
    rng = np.random.default_rng(seed)
    tops = [int(rng.integers(side - part + 1)) for side, part in zip(size, sides, strict=True)]
    rows, columns = (slice(top, top + part) for top, part in zip(tops, sides, strict=True))
    return RedrawPlan(
        window=(rows, columns), region=smooth_region(sides[0], sides[1], config, rng), seed=seed % 2**31
    )


def redrawn(
    pixels: NDArray[np.uint8],
    plan: RedrawPlan,
    drawn: NDArray[np.uint8],
    config: InjectionConfig,
    parameters: dict[str, Any],
) -> Injection:
    """The image uint8 HW3 with the region of `drawn`, the window as the generator drew it, feathered inwards.

    Raises `InputRefused` when the change cannot be seen.
    """
    known = pixels[plan.window]
    alpha = feather(plan.region)[..., None]
    mixed = np.rint(known * (1 - alpha) + drawn * alpha).astype(np.uint8)
    changed, mask = pixels.copy(), np.zeros(pixels.shape[:2], dtype=bool)
    changed[plan.window] = np.where(plan.region[..., None], mixed, known)
    mask[plan.window] = plan.region
    if visible_share(pixels, changed, mask) < config.visible:
        raise InputRefused(
            "the redrawn region looks like the image itself; it is left out, as a label on an unchanged "
            "region would be wrong"
        )
    return Injection(
        pixels=changed,
        label_map=np.where(mask, SHAPE_DISTORTION, 0).astype(np.uint8),
        parameters={"kind": REDRAW, "seed": config.seed, **parameters},
    )
