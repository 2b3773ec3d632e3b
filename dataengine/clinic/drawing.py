"""Antialiased drawing primitives on a supersampled canvas.

Coordinates are unit coordinates: (0, 0) is the middle of the subject, one unit is the width of the image,
y points down. A pose maps them to pixels. Everything is drawn `SUPERSAMPLING` times too large and averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 64
SUPERSAMPLING = 3
CANVAS = SIZE * SUPERSAMPLING

Colour = tuple[int, int, int]
Point = tuple[float, float]

_CIRCLE = tuple((float(np.cos(a)), float(np.sin(a))) for a in np.linspace(0, 2 * np.pi, 28, endpoint=False))


@dataclass(frozen=True)
class Pose:
    """The placement of a subject: centre as shares of the image, scale, and tilt in degrees."""

    x: float
    y: float
    scale: float
    tilt: float

    def adjusted(self, scale: float = 1.0, tilt: float = 1.0, shift: float = 0.0) -> "Pose":
        """The pose with scale and tilt multiplied, shifted to the right by `shift`."""
        return Pose(self.x + shift, self.y, self.scale * scale, self.tilt * tilt)


@lru_cache(maxsize=64)
def font(pixels: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that drawings do not depend on the fonts of a system."""
    loaded = ImageFont.load_default(pixels)
    if not isinstance(loaded, ImageFont.FreeTypeFont):
        raise RuntimeError(
            "Pillow was built without FreeType; the clinic's drawings need it: install Pillow's wheel."
        )
    return loaded


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor < 1) or lighter (> 1)."""
    red, green, blue = (int(min(255.0, channel * factor)) for channel in colour)
    return red, green, blue


def luminance(colour: Colour) -> float:
    """Perceived brightness in [0, 255] (ITU-R BT.601 weights)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def shrink(canvas: Image.Image) -> np.ndarray:
    """A canvas as uint8 HWC of the world's size: the average of each supersampled block."""
    return np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX))


def plain_background(colour: Colour, shaded: bool) -> Image.Image:
    """A plain background, or one that darkens towards its lower edge."""
    if not shaded:
        return Image.new("RGB", (CANVAS, CANVAS), colour)
    light = 1.06 - 0.4 * np.linspace(0.0, 1.0, CANVAS)[:, None, None]
    rows = np.clip(np.asarray(colour, float) * light, 0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(rows, (CANVAS, CANVAS, 3))))


class Canvas:
    """Draws opaque shapes in unit coordinates onto a copy of a background."""

    def __init__(self, background: Image.Image, pose: Pose) -> None:
        self.image = background.copy()
        self.pose = pose
        self._draw = ImageDraw.Draw(self.image)
        turn = np.deg2rad(pose.tilt)
        self._cos, self._sin = float(np.cos(turn)), float(np.sin(turn))

    def at(self, x: float, y: float) -> Point:
        """Unit coordinates to canvas pixels."""
        x, y = x * self.pose.scale, y * self.pose.scale
        return (
            (self.pose.x + x * self._cos - y * self._sin) * CANVAS,
            (self.pose.y + x * self._sin + y * self._cos) * CANVAS,
        )

    def length(self, units: float) -> float:
        """A length in canvas pixels."""
        return units * self.pose.scale * CANVAS

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self._draw.polygon([self.at(*point) for point in points], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self.polygon([(x + rx * c, y + ry * s) for c, s in _CIRCLE], colour)

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A line through the points with round joints; `width` in units."""
        pixels = [self.at(*point) for point in points]
        self._draw.line(pixels, fill=colour, width=max(1, round(self.length(width))), joint="curve")

    def capsule(self, start: Point, end: Point, radius: float, colour: Colour) -> None:
        """A thick line with round ends."""
        self.stroke([start, end], 2 * radius, colour)
        reach = self.length(radius)
        for x, y in (self.at(*start), self.at(*end)):
            self._draw.ellipse([x - reach, y - reach, x + reach, y + reach], fill=colour)

    def glyph(
        self,
        letter: str,
        x: float,
        y: float,
        height: float,
        colour: Colour,
        mirrored: bool = False,
        turn: float = 0.0,
    ) -> None:
        """One letter, centred, `height` units tall, optionally mirrored and then turned by degrees."""
        pixels = round(self.length(height) * 1.35)
        side = pixels * 2
        mask = Image.new("L", (side, side))
        writer = ImageDraw.Draw(mask)
        face, weight = font(pixels), max(1, pixels // 14)
        left, top, right, bottom = writer.textbbox((0, 0), letter, font=face, stroke_width=weight)
        corner = (side / 2 - (left + right) / 2, side / 2 - (top + bottom) / 2)
        writer.text(corner, letter, font=face, fill=255, stroke_width=weight, stroke_fill=255)
        if mirrored:
            mask = mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mask = mask.rotate(turn - self.pose.tilt, Image.Resampling.BILINEAR)
        centre = self.at(x, y)
        self.image.paste(colour, (round(centre[0] - side / 2), round(centre[1] - side / 2)), mask)
