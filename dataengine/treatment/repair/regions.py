"""The regions of an image that a repair redraws, and the crops in which a generator sees them. NumPy only."""

from dataclasses import dataclass

import numpy as np

from dataengine.errors import InputRefused
from dataengine.masks import Confidence, Mask, components
from dataengine.records import OperatingPoint
from dataengine.treatment.repair.config import RepairConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle in pixels; `bottom` and `right` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A part of an image to redraw."""

    mask: Mask
    """Bool HW of the whole image: the artifacts with their margin. No other pixel changes."""
    crop: Box
    """What the generator sees."""
    peak: float
    """Highest confidence in it before the repair."""


def choose_regions(
    confidence: Confidence,
    point: OperatingPoint,
    size: tuple[int, int],
    config: RepairConfig,
    among: Mask | None = None,
) -> list[Region]:
    """The regions to redraw in an image, from its confidence map float32 HW; `size` (height, width) is the
    generator's own.

    Artifacts whose margins touch are one region; with `among`, bool HW, only artifacts that overlap it count.
    Raises `InputRefused` when the artifacts or their regions cover more than `config.largest` of the image,
    and when the whole image would be enlarged more than `config.zoom` times.
    """
    height, width = confidence.shape
    numbers, count = components(confidence >= point.component)
    weights = np.bincount(numbers.ravel(), confidence.ravel().astype(np.float64), minlength=count + 1)
    areas = np.bincount(numbers.ravel(), minlength=count + 1) / (height * width)
    peaks = np.zeros(count + 1)
    np.maximum.at(peaks, numbers.ravel(), confidence.ravel())
    flagged = [n for n in range(1, count + 1) if peaks[n] >= point.flagged and areas[n] >= config.least]
    if among is not None:
        flagged = [n for n in flagged if among[numbers == n].any()]
    chosen = sorted(flagged, key=lambda number: -weights[number])[: config.count]
    if not chosen:
        return []
    _check_size((height, width), size, config.zoom)
    grown = dilate(np.isin(numbers, chosen), round(config.grow * min(height, width)))
    if (share := float(grown.mean())) > config.largest:
        raise InputRefused(
            f"its artifacts with their margins cover {share:.0%} of the image, and a repair redraws at most "
            f"{config.largest:.0%}: generate the image again, or raise `largest`"
        )
    parts, count = components(grown)
    return [
        Region(
            mask=(mask := parts == number),
            crop=crop_around(mask, size, config),
            peak=float(confidence[mask].max()),
        )
        for number in range(1, count + 1)
    ]


def _check_size(image: tuple[int, int], size: tuple[int, int], zoom: float) -> None:
    if (scale := float(np.sqrt(size[0] * size[1] / (image[0] * image[1])))) > zoom:
        raise InputRefused(
            f"it is {image[1]}×{image[0]} pixels, and the generator draws {size[1]}×{size[0]}: it would be "
            f"enlarged {scale:.2g} times, and at most {zoom:g} times is allowed. Enlarge it first, or raise "
            "`zoom`"
        )


def dilate(mask: Mask, radius: int) -> Mask:
    """The mask grown by a disk of `radius` pixels."""
    from scipy.ndimage import distance_transform_edt

    return np.asarray(distance_transform_edt(~mask) <= radius) if radius and mask.any() else mask.copy()


def crop_around(mask: Mask, size: tuple[int, int], config: RepairConfig) -> Box:
    """A box around the mask, within the image; `size` is the generator's own.

    Its sides are `context` times the mask's, neither more than twice the other, and its area is such that it
    is enlarged at most `zoom` times.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    sides = config.context * np.array([rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]], dtype=float)
    sides = np.maximum(sides, sides.max() / 2)
    sides *= max(1.0, np.sqrt(size[0] * size[1] / sides.prod()) / config.zoom)
    tall, wide = (min(whole, round(side)) for whole, side in zip(mask.shape, sides, strict=True))
    top = _start(int(rows[0] + rows[-1] + 1), tall, mask.shape[0])
    left = _start(int(columns[0] + columns[-1] + 1), wide, mask.shape[1])
    return Box(top=top, left=left, bottom=top + tall, right=left + wide)


def drawing_size(crop: tuple[int, int], size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The size (height, width) at which a crop is redrawn: its shape and about the area of the generator's
    own `size`, in multiples that the generator can draw."""
    scale = np.sqrt(size[0] * size[1] / (crop[0] * crop[1]))
    height, width = (max(1, round(side * scale / multiple)) * multiple for side in crop)
    return height, width


def _start(twice_middle: int, side: int, length: int) -> int:
    return int(min(max(0, (twice_middle - side) // 2), length - side))
