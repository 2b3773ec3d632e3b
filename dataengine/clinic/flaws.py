"""The artifacts of the world: the kinds each category can have, their classes, and the functions that draw
them.

Classes follow the paper's three types: 1 shape distortion, 2 unreasonable content, 3 watermark.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dataengine.clinic.drawing import CANVAS, Colour, font

SHAPE_DISTORTION, UNREASONABLE_CONTENT, WATERMARK = 1, 2, 3

CLASSES: dict[str, int] = {
    "warp": SHAPE_DISTORTION,
    "blur": SHAPE_DISTORTION,
    "blot": SHAPE_DISTORTION,
    "garble": SHAPE_DISTORTION,
    "flip": SHAPE_DISTORTION,
    "extra": UNREASONABLE_CONTENT,
    "missing": UNREASONABLE_CONTENT,
    "duplicate": UNREASONABLE_CONTENT,
    "mark": WATERMARK,
}
STRUCTURAL = frozenset({"garble", "flip", "extra", "missing", "duplicate"})

# A kind that occurs twice is twice as likely.
_KINDS: dict[str, tuple[str, ...]] = {
    "hand": ("extra", "extra", "extra", "warp", "blur", "blot", "blot"),
    "face": ("missing", "extra", "extra", "duplicate", "warp", "blur", "blot", "blot"),
    "sign": ("garble", "garble", "garble", "flip", "blur", "blot", "blot"),
    "animal": ("extra", "extra", "missing", "duplicate", "warp", "blur", "blot"),
}
_OTHER_KINDS = ("warp", "blur", "blot", "blot")
_MARK_SHARE = 0.15
_SECOND_BLOT_SHARE = 0.06
_BLOT_COLOURS: tuple[Colour, ...] = (
    (190, 70, 120),
    (110, 130, 60),
    (60, 50, 70),
    (200, 160, 90),
    (120, 170, 180),
)


@dataclass(frozen=True)
class Spot:
    """A round region of the canvas in pixels."""

    x: float
    y: float
    radius: float


def sample_small_kind(rng: np.random.Generator) -> str:
    """Sample the kind of a small artifact: one that can have any size, which watermarks and changes of the
    subject's own parts cannot.
    """
    return _OTHER_KINDS[int(rng.integers(len(_OTHER_KINDS)))]


def part_of(spot: Spot, rng: np.random.Generator) -> Spot:
    """A smaller disc at random inside the spot, a fifth to seven tenths as wide."""
    radius = spot.radius * rng.uniform(0.2, 0.7)
    angle, reach = rng.uniform(0, 2 * np.pi), (spot.radius - radius) * np.sqrt(rng.uniform())
    return Spot(spot.x + reach * np.cos(angle), spot.y + reach * np.sin(angle), radius)


def sample_kinds(rng: np.random.Generator, category: str) -> tuple[str, ...]:
    """Sample the kinds of artifact of a flawed image of the category: one, rarely two."""
    if rng.random() < _MARK_SHARE:
        return ("mark",)
    choices = _KINDS.get(category, _OTHER_KINDS)
    kind = choices[int(rng.integers(len(choices)))]
    return (kind, "blot") if kind != "blot" and rng.random() < _SECOND_BLOT_SHARE else (kind,)


def add_artifact(canvas: Image.Image, kind: str, spots: list[Spot], rng: np.random.Generator) -> Image.Image:
    """A copy of a canvas with an artifact of a pixel kind (`warp`, `blur`, `blot`, `mark`) at one of the
    spots.
    """
    spot = spots[int(rng.integers(len(spots)))]
    return _ARTIFACT_FUNCTIONS[kind](canvas, spot, rng)


def _warp(canvas: Image.Image, spot: Spot, rng: np.random.Generator) -> Image.Image:
    """Displace the pixels of a disc: in waves, as a whirl, or at random."""
    radius = spot.radius * rng.uniform(1.1, 1.45)
    top, left, bottom, right = _bounds(spot, radius)
    yy, xx = np.mgrid[top:bottom, left:right].astype(np.float32)
    dx, dy = xx - spot.x, yy - spot.y
    fall = np.clip(1 - (dx**2 + dy**2) / radius**2, 0, 1) ** 0.6
    mode = int(rng.integers(3))
    if mode == 0:
        reach, waves, phase = (
            rng.uniform(0.35, 0.5) * radius,
            rng.uniform(3.6, 6.6) / radius,
            rng.uniform(0, 6.28),
        )
        shift_x, shift_y = (
            reach * np.sin(yy * waves + phase) * fall,
            reach * np.cos(xx * waves + phase) * fall,
        )
    elif mode == 1:
        turn = rng.choice([-1.0, 1.0]) * rng.uniform(1.6, 2.6) * fall
        shift_x = dx * (np.cos(turn) - 1) - dy * np.sin(turn)
        shift_y = dx * np.sin(turn) + dy * (np.cos(turn) - 1)
    else:
        shift_x, shift_y = (_smooth_noise(rng, fall.shape) * radius * 0.6 * fall for _ in range(2))
    pixels = np.asarray(canvas)
    moved = pixels.copy()
    rows = np.clip(np.rint(yy + shift_y), 0, CANVAS - 1).astype(np.intp)
    columns = np.clip(np.rint(xx + shift_x), 0, CANVAS - 1).astype(np.intp)
    moved[top:bottom, left:right] = pixels[rows, columns]
    return Image.fromarray(moved)


def _blur(canvas: Image.Image, spot: Spot, rng: np.random.Generator) -> Image.Image:
    radius = spot.radius * rng.uniform(1.1, 1.45)
    top, left, bottom, right = _bounds(spot, radius)
    yy, xx = np.mgrid[top:bottom, left:right]
    share = np.clip(1.5 * (1 - ((xx - spot.x) ** 2 + (yy - spot.y) ** 2) / radius**2), 0, 1)
    region = canvas.crop((left, top, right, bottom))
    soft = region.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.3) * radius))
    blurred = canvas.copy()
    blurred.paste(soft, (left, top), Image.fromarray((255 * share).astype(np.uint8)))
    return blurred


def _blot(canvas: Image.Image, spot: Spot, rng: np.random.Generator) -> Image.Image:
    """Draw a soft, lobed patch in a colour that occurs nowhere else in the scene."""
    radius = spot.radius * rng.uniform(0.6, 0.95)
    x, y = spot.x + rng.uniform(-0.3, 0.3) * radius, spot.y + rng.uniform(-0.3, 0.3) * radius
    first, second, third = rng.uniform(0, 6.28, 3)
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    lobes = (
        0.25 * np.sin(2 * angles + first)
        + 0.2 * np.sin(3 * angles + second)
        + 0.12 * np.sin(5 * angles + third)
    )
    reach = radius * (1 + lobes)
    opacity = Image.new("L", canvas.size)
    outline = list(zip(x + reach * np.cos(angles), y + reach * np.sin(angles), strict=True))
    ImageDraw.Draw(opacity).polygon(outline, fill=int(rng.integers(200, 250)))
    colour = _BLOT_COLOURS[int(rng.integers(len(_BLOT_COLOURS)))]
    blotted = canvas.copy()
    blotted.paste(colour, (0, 0), opacity.filter(ImageFilter.GaussianBlur(2)))
    return blotted


def _mark(canvas: Image.Image, spot: Spot, rng: np.random.Generator) -> Image.Image:
    """Draw a line of half-transparent letters across the image, in half of the cases on a lighter or darker
    band.
    """
    height, opacity = int(rng.integers(20, 30)), int(rng.integers(120, 190))
    colour: Colour = (255, 255, 255) if rng.random() < 0.65 else (30, 30, 30)
    middle = CANVAS * (1 + rng.uniform(-0.38, 0.38))
    layer = Image.new("L", (2 * CANVAS, 2 * CANVAS))
    draw = ImageDraw.Draw(layer)
    if rng.random() < 0.5:
        draw.rectangle([0, middle - 0.7 * height, 2 * CANVAS, middle + 0.7 * height], fill=opacity // 3)
    word = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUVXZ"), 5)) + " "
    start = (CANVAS * (1 + rng.uniform(-0.2, 0.2)), middle)
    draw.text(
        start, word * 5, fill=opacity, font=font(height), anchor="mm", stroke_width=1, stroke_fill=opacity
    )
    layer = layer.rotate(float(rng.choice([0, 0, 30, -30, 45])))
    half = CANVAS // 2
    marked = canvas.copy()
    marked.paste(colour, (0, 0), layer.crop((half, half, half + CANVAS, half + CANVAS)))
    return marked


def _bounds(spot: Spot, radius: float) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a disc, inside the canvas."""
    low = [max(0, int(v - radius)) for v in (spot.y, spot.x)]
    high = [min(CANVAS, int(v + radius) + 1) for v in (spot.y, spot.x)]
    return low[0], low[1], high[0], high[1]


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    coarse = Image.fromarray(rng.normal(0, 1, (5, 5)).astype(np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


_ARTIFACT_FUNCTIONS: dict[str, Callable[[Image.Image, Spot, np.random.Generator], Image.Image]] = {
    "warp": _warp,
    "blur": _blur,
    "blot": _blot,
    "mark": _mark,
}
PIXEL_KINDS = tuple(_ARTIFACT_FUNCTIONS)
