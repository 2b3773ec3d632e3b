"""A redrawn crop back in its image: scaled, matched in colour, feathered; other pixels keep their bytes."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataengine.masks import Mask, feather_inwards
from dataengine.treatment.repair.regions import Region

Pixels = NDArray[np.uint8]


def cut(image: Pixels, region: Region, size: tuple[int, int]) -> tuple[Pixels, Mask]:
    """The region's crop of an image uint8 HW3 and its mask, scaled to `size` (height, width)."""
    rows, columns = region.crop.slices
    crop, mask = image[rows, columns], region.mask[rows, columns]
    scaled = resize(crop, size)
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize(size[::-1], Image.Resampling.BOX)
    return scaled, np.asarray(small) > 0


def paste(image: Pixels, region: Region, redrawn: Pixels, feather: float) -> Pixels:
    """The image with the region's crop redrawn, uint8 HW3; `feather` is the transition's width in pixels."""
    rows, columns = region.crop.slices
    mask, known = region.mask[rows, columns], image[rows, columns]
    drawn = match_colour(resize(redrawn, region.crop.size), known, mask)
    alpha = feather_inwards(mask, feather)[..., None]
    mixed = np.rint(known * (1 - alpha) + drawn * alpha).astype(np.uint8)
    result = image.copy()
    result[rows, columns] = np.where(mask[..., None], mixed, known)
    return result


def match_colour(drawn: Pixels, known: Pixels, mask: Mask) -> NDArray[np.float32]:
    """The redrawn crop shifted in colour so that it agrees with the known one outside the mask, float32.

    A VAE shifts colours a little, which shows as a patch; the shift is the median difference by channel.
    """
    difference = known.astype(np.float32) - drawn
    if mask.all():
        return drawn.astype(np.float32)
    shift = np.median(difference[~mask], axis=0)
    return np.clip(drawn + shift, 0, 255).astype(np.float32)


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Pixels uint8 HW3 at another (height, width)."""
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS))
