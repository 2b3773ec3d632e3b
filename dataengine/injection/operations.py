"""Operations that damage a region of an image.

Each takes an image float32 HW3 in [0, 1], a region bool HW that is not empty, and a random generator, and
returns the damaged image with the mask of the damage. Pixels outside that mask are unchanged: edges are
feathered inwards. Lengths follow the region's size, so that one operation serves images of any size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from dataengine.masks import Mask, feather_inwards
from dataengine.records import InjectionKind

Pixels = NDArray[np.float32]

SHAPE_DISTORTION, UNREASONABLE_CONTENT, WATERMARK = 1, 2, 3
"""Numbers of the default classes."""

LETTERS = tuple("abcdefghiklmnopqrstuvwxyz")


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A kind of artifact: how it is made, and the class it is labelled with."""

    apply: Callable[[Pixels, Mask, Generator], tuple[Pixels, Mask]]
    label_class: int


def warp(image: Pixels, region: Mask, rng: Generator) -> tuple[Pixels, Mask]:
    """Bend the region along a smooth random displacement field of up to three tenths of its size."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    size = extent(region)
    field = np.stack([gaussian_filter(rng.normal(size=region.shape), max(1.0, size / 10)) for _ in range(2)])
    field *= size * rng.uniform(0.15, 0.3) / (np.abs(field[:, region]).max() + 1e-6)
    grid = np.mgrid[: region.shape[0], : region.shape[1]] + field * feather(region)
    bent = [map_coordinates(image[..., channel], grid, order=1, mode="reflect") for channel in range(3)]
    return blend(image, np.stack(bent, axis=-1), region), region


def double(image: Pixels, region: Mask, rng: Generator) -> tuple[Pixels, Mask]:
    """Lay what stands beside the region over it, so that a part appears twice."""
    angle, length = rng.uniform(0, 2 * np.pi), extent(region) * rng.uniform(0.5, 1.0)
    return blend(image, shifted(image, angle, length), region), region


def fuse(image: Pixels, region: Mask, rng: Generator) -> tuple[Pixels, Mask]:
    """Mix the region half and half with its mirror image, so that two parts grow into one another."""
    rows, columns = box(region)
    part = image[rows, columns]
    mirrored = image.copy()
    mirrored[rows, columns] = (part + part[:, ::-1] if rng.random() < 0.5 else part + part[::-1]) / 2
    return blend(image, mirrored, region), region


def tear(image: Pixels, region: Mask, rng: Generator) -> tuple[Pixels, Mask]:
    """Move small blocks of the region by a few blocks, so that its texture no longer fits together."""
    height, width = region.shape
    side = max(2, round(extent(region) * rng.uniform(0.06, 0.12)))
    torn, reach = image.copy(), 2 * side
    rows, columns = box(region)
    for top in range(rows.start, max(rows.start + 1, rows.stop - side + 1), side):
        for left in range(columns.start, max(columns.start + 1, columns.stop - side + 1), side):
            down, right = rng.integers(-reach, reach + 1, 2)
            y = int(np.clip(top + down, 0, max(0, height - side)))
            x = int(np.clip(left + right, 0, max(0, width - side)))
            piece = image[y : y + side, x : x + side]
            torn[top : top + piece.shape[0], left : left + piece.shape[1]] = piece[
                : height - top, : width - left
            ]
    return blend(image, torn, region), region


def glyphs(image: Pixels, region: Mask, rng: Generator) -> tuple[Pixels, Mask]:
    """Write lines of strokes that resemble letters and are none; the mask is the strokes with a rim."""
    rows, columns = box(region)
    line = max(6, round((rows.stop - rows.start) / rng.integers(1, 4)))
    stroke = max(2, round(line * 0.1))
    strokes = Image.new("L", (image.shape[1], image.shape[0]))
    pen = ImageDraw.Draw(strokes)
    for top in range(rows.start, max(rows.start + 1, rows.stop - line // 2), line):
        for left in range(columns.start, columns.stop - 1, max(3, round(line * 0.6))):
            points = [
                (left + line * rng.uniform(0, 0.5), top + line * rng.uniform(0.15, 0.85)) for _ in range(4)
            ]
            pen.line(points, fill=255, width=stroke, joint="curve")
    ink = np.asarray(strokes, dtype=np.float32)[..., None] / np.float32(255)
    colour = rng.uniform(0, 1, 3).astype(np.float32)
    return over(image, colour, ink), grown(strokes, stroke // 2)


def watermark(image: Pixels, region: Mask, rng: Generator) -> tuple[Pixels, Mask]:
    """Overlay a tilted, half-transparent word about twice as wide as the region; the mask is its letters with
    a rim."""
    rows, columns = box(region)
    word = "".join(rng.choice(LETTERS, int(rng.integers(5, 12))))
    length = (columns.stop - columns.start) * rng.uniform(1.5, 2.5)
    font = ImageFont.load_default(max(12, round(length / len(word) * 1.8)))
    layer = Image.new("L", (image.shape[1], image.shape[0]))
    middle = ((columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2)
    ImageDraw.Draw(layer).text(middle, word, fill=255, font=font, anchor="mm")
    layer = layer.rotate(rng.uniform(-30, 30), resample=Image.Resampling.BILINEAR, center=middle)
    alpha = (
        np.asarray(layer, dtype=np.float32)[..., None] / np.float32(255) * np.float32(rng.uniform(0.25, 0.55))
    )
    tone = np.float32(rng.random() < 0.7)
    return over(image, tone, alpha), grown(layer, 1)


def seam(image: Pixels, region: Mask, rng: Generator) -> tuple[Pixels, Mask]:
    """Shift one half of the region a little and change its brightness, without feather: a visible edge."""
    rows, columns = box(region)
    half = region.copy()
    if rng.random() < 0.5:
        half[:, (columns.start + columns.stop) // 2 :] = False
    else:
        half[(rows.start + rows.stop) // 2 :] = False
    half = half if half.any() else region
    moved = shifted(image, rng.uniform(0, 2 * np.pi), max(2.0, extent(region) * rng.uniform(0.05, 0.15)))
    changed = np.clip(moved + np.float32(rng.choice((-1, 1)) * rng.uniform(0.04, 0.12)), 0, 1)
    return np.where(half[..., None], changed, image).astype(np.float32), half


def smooth(image: Pixels, region: Mask, rng: Generator) -> tuple[Pixels, Mask]:
    """Blur the region, so that it lacks the detail of its surroundings."""
    from scipy.ndimage import gaussian_filter

    sigma = max(1.5, extent(region) * rng.uniform(0.04, 0.08))
    return blend(image, gaussian_filter(image, (sigma, sigma, 0)), region), region


OPERATIONS: dict[InjectionKind, Operation] = {
    "warp": Operation(apply=warp, label_class=SHAPE_DISTORTION),
    "double": Operation(apply=double, label_class=UNREASONABLE_CONTENT),
    "fuse": Operation(apply=fuse, label_class=UNREASONABLE_CONTENT),
    "tear": Operation(apply=tear, label_class=SHAPE_DISTORTION),
    "glyphs": Operation(apply=glyphs, label_class=SHAPE_DISTORTION),
    "watermark": Operation(apply=watermark, label_class=WATERMARK),
    "seam": Operation(apply=seam, label_class=SHAPE_DISTORTION),
    "smooth": Operation(apply=smooth, label_class=SHAPE_DISTORTION),
}


def box(region: Mask) -> tuple[slice, slice]:
    """Rows and columns of the region's bounding box."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def extent(region: Mask) -> float:
    """Longer side of the region's bounding box, in pixels."""
    rows, columns = box(region)
    return float(max(rows.stop - rows.start, columns.stop - columns.start))


def feather(region: Mask) -> Pixels:
    """Opacity float32 HW in [0, 1], over a twentieth of the region's size from its edge inwards."""
    return feather_inwards(region, extent(region) * 0.05)


def blend(image: Pixels, other: Pixels, region: Mask) -> Pixels:
    """`other` within the region, feathered, and `image` everywhere else."""
    alpha = feather(region)[..., None]
    return over(image, other, alpha)


def over(image: Pixels, other: Pixels | np.float32, opacity: Pixels) -> Pixels:
    """`other` laid over the image with an opacity HW1 in [0, 1]."""
    return np.asarray(image * (1 - opacity) + other * opacity, dtype=np.float32)


def shifted(image: Pixels, angle: float, length: float) -> Pixels:
    """The image moved by `length` pixels in the direction `angle` (radians), its border mirrored."""
    from scipy.ndimage import shift

    offset = (round(length * np.sin(angle)), round(length * np.cos(angle)), 0)
    return shift(image, offset, order=0, mode="mirror").astype(np.float32)


def grown(strokes: Image.Image, rim: int) -> Mask:
    """Where a greyscale image of strokes is not black, with a rim of `rim` pixels."""
    return np.asarray(strokes.filter(ImageFilter.MaxFilter(2 * rim + 1))) > 0
