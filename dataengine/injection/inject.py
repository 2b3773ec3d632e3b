"""One artifact in one clean image, with its exact label map."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dataengine.errors import InputRefused
from dataengine.injection.config import InjectionConfig
from dataengine.injection.operations import OPERATIONS, box
from dataengine.masks import LabelMap, Mask
from dataengine.records import InjectionKind

SMALLEST_IMAGE = 32
SMALLEST_REGION = 8
TRIES = 10
VISIBLE_CHANGE = 4
"""A channel must change by more than this many of 255 levels to be seen."""


@dataclass(frozen=True, kw_only=True)
class Injection:
    """A damaged image uint8 HW3, its label map uint8 HW, and the parameters that reproduce it."""

    pixels: NDArray[np.uint8]
    label_map: LabelMap
    parameters: dict[str, Any]


def inject(pixels: NDArray[np.uint8], name: str, config: InjectionConfig) -> Injection:
    """Inject one artifact into an image uint8 HW3; the same `name` and config give the same bytes.

    Raises `InputRefused` for an image below 32 pixels, and when no artifact could be seen in ten places.
    """
    height, width = pixels.shape[:2]
    refuse_small(height, width)
    rng = np.random.default_rng(seed_of(name, config.seed))
    kind: InjectionKind = config.kinds[int(rng.integers(len(config.kinds)))]
    for attempt in range(TRIES):
        region = smooth_region(height, width, config, rng)
        found = _damaged(pixels, region, kind, rng)
        if found is None:
            continue
        changed, mask = found
        if visible_share(pixels, changed, mask) >= config.visible:
            label_map = np.where(mask, OPERATIONS[kind].label_class, 0).astype(np.uint8)
            parameters = {"kind": kind, "seed": config.seed, "name": name, "attempt": attempt}
            return Injection(pixels=changed, label_map=label_map, parameters=parameters)
    raise InputRefused(
        f"no {kind!r} could be seen in this image at {TRIES} places; it is left out, as a label "
        "on an unchanged region would be wrong"
    )


def refuse_small(height: int, width: int) -> None:
    """Raise `InputRefused` for an image below 32 pixels."""
    if min(height, width) < SMALLEST_IMAGE:
        raise InputRefused(
            f"an image of {height}×{width} pixels is too small for an injected artifact; "
            f"expected at least {SMALLEST_IMAGE} on each side"
        )


def visible_share(before: NDArray[np.uint8], after: NDArray[np.uint8], mask: Mask) -> float:
    """Share of the mask's pixels whose change can be seen, in [0, 1]."""
    difference = np.abs(after.astype(np.int16) - before).max(axis=-1) > VISIBLE_CHANGE
    return float(difference[mask].mean())


def seed_of(name: str, seed: int) -> int:
    """A seed of its own for each image, independent of the order in which they come."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")


def smooth_region(height: int, width: int, config: InjectionConfig, rng: Generator) -> Mask:
    """A blob with a smooth, irregular outline somewhere in the image, bool HW, never empty."""
    from scipy.ndimage import gaussian_filter

    shorter = min(height, width)
    rows, columns = (
        max(SMALLEST_REGION, round(share * shorter)) for share in rng.uniform(config.least, config.most, 2)
    )
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    y, x = np.mgrid[:rows, :columns]
    field = 1 - ((y + 0.5) / rows * 2 - 1) ** 2 - ((x + 0.5) / columns * 2 - 1) ** 2
    noise = gaussian_filter(rng.normal(size=(rows, columns)), max(1.0, min(rows, columns) / 8))
    field += 0.4 * noise / (np.abs(noise).max() + 1e-6)
    region = np.zeros((height, width), dtype=bool)
    region[top : top + rows, left : left + columns] = field > 0
    return region


def _damaged(
    pixels: NDArray[np.uint8], region: Mask, kind: InjectionKind, rng: Generator
) -> tuple[NDArray[np.uint8], Mask] | None:
    """The image and mask after the operation, which sees only the region's surroundings; None without a
    mask."""
    window = surroundings(region)
    before = pixels[window].astype(np.float32) / np.float32(255)
    after, damage = OPERATIONS[kind].apply(before, region[window], rng)
    if not damage.any():
        return None
    changed, mask = pixels.copy(), np.zeros(region.shape, dtype=bool)
    levels = np.rint(np.clip(after, 0, 1) * 255).astype(np.uint8)
    changed[window] = np.where(damage[..., None], levels, pixels[window])
    mask[window] = damage
    return changed, mask


def surroundings(region: Mask) -> tuple[slice, slice]:
    """The region's bounding box grown by its own size on each side, within the image."""
    rows, columns = box(region)
    tall, wide = rows.stop - rows.start, columns.stop - columns.start
    return (
        slice(max(0, rows.start - tall), min(region.shape[0], rows.stop + tall)),
        slice(max(0, columns.start - wide), min(region.shape[1], columns.stop + wide)),
    )
