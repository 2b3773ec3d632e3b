"""One drawing function per category. It paints the subject, with at most one structural fault, and returns
its parts.

Structural faults (an extra finger, a missing eye, a garbled letter …) depend on the anatomy and are drawn
here; faults that work on pixels are in `flaws`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dataengine.clinic.drawing import Canvas, Colour, Point, luminance, shade
from dataengine.clinic.scenes import COLOURS, SKINS, Scene

OUTLINE = 0.014


@dataclass(frozen=True)
class Fault:
    """A structural fault: its kind, and a number in [0, 1) that selects one of the possible places."""

    kind: str
    where: float

    def choose(self, count: int) -> int:
        """The selected index below `count`."""
        return int(self.where * count)


@dataclass(frozen=True)
class Part:
    """A region of interest of a subject, in unit coordinates."""

    x: float
    y: float
    radius: float


Drawer = Callable[[Canvas, Scene, Fault | None], list[Part]]


@dataclass(frozen=True)
class Subject:
    """How a category is drawn: its function, and the adjustment of the pose that keeps it large and inside
    the frame.

    `scale` and `tilt` are factors, `shift` moves it to the right by a share of the image.
    """

    draw: Drawer
    scale: float = 1.0
    tilt: float = 1.0
    shift: float = 0.0


@dataclass(frozen=True)
class _Limb:
    start: Point
    end: Point
    radius: float


def _draw_hand(canvas: Canvas, scene: Scene, fault: Fault | None) -> list[Part]:
    rng = np.random.default_rng(scene.seed)
    skin = SKINS[scene.attributes["skin"]]
    step = 20.0 if scene.attributes["spread"] == "open" else 14.5
    angles = [step * k + rng.uniform(-1, 1) for k in (-1.5, -0.5, 0.5, 1.5)]
    lengths = [length * rng.uniform(0.98, 1.02) for length in (0.25, 0.30, 0.31, 0.27)]
    thumb = np.deg2rad(-68 + rng.uniform(-3, 3))
    limbs = [_finger(angle, length) for angle, length in zip(angles, lengths, strict=True)]
    limbs.append(_Limb((-0.08, 0.14), (-0.08 + 0.27 * np.sin(thumb), 0.14 - 0.27 * np.cos(thumb)), 0.042))
    parts = [Part((f.start[0] + 2 * f.end[0]) / 3, (f.start[1] + 2 * f.end[1]) / 3, 0.11) for f in limbs]
    if fault is not None and fault.kind == "extra":
        limbs.append(_extra_finger(fault, angles, step))
    for colour, grow in ((shade(skin, 0.55), OUTLINE), (skin, 0.0)):
        for limb in limbs:
            canvas.capsule(limb.start, limb.end, limb.radius + grow, colour)
        canvas.ellipse(0, 0.13, 0.138 + grow, 0.15 + grow, colour)
        canvas.capsule((0, 0.2), (0, 0.42), 0.085 + grow, colour)
    return [*parts, Part(0, -0.1, 0.17)]


def _finger(angle: float, length: float, radius: float = 0.036) -> _Limb:
    a = np.deg2rad(angle)
    start = (0.2 * np.sin(a), 0.08 - 0.12 * np.cos(a))
    return _Limb(start, ((0.2 + length) * np.sin(a), 0.08 - (0.12 + length) * np.cos(a)), radius)


def _extra_finger(fault: Fault, angles: list[float], step: float) -> _Limb:
    """Draw a sixth finger: beyond the little finger in half of the cases, else between two others and
    longer."""
    if fault.where < 0.5:
        return _finger(angles[-1] + 1.3 * step, 0.24)
    between = angles[int((fault.where - 0.5) * 6)] + step / 2
    return _finger(between, 0.37, radius=0.032)


def _draw_face(canvas: Canvas, scene: Scene, fault: Fault | None) -> list[Part]:
    rng = np.random.default_rng(scene.seed)
    skin, hair = SKINS[scene.attributes["skin"]], COLOURS[scene.attributes["hair"]]
    iris: Colour = ((60, 40, 30), (40, 80, 150), (50, 120, 70))[int(rng.integers(3))]
    canvas.ellipse(0, -0.06, 0.31, 0.33, shade(hair, 0.7))
    canvas.ellipse(0, -0.07, 0.29, 0.31, hair)
    canvas.ellipse(0, 0.05, 0.255, 0.305, shade(skin, 0.6))
    canvas.ellipse(0, 0.05, 0.24, 0.29, skin)
    eyes, mouths = [(-0.105, 0.0), (0.105, 0.0)], [0.21]
    if fault is not None and fault.kind == "missing":
        eyes.pop(fault.choose(2))
    elif fault is not None and fault.kind == "extra":
        eyes.append(((0.0, -0.14), (-0.13, 0.15), (0.13, 0.15))[fault.choose(3)])
    elif fault is not None and fault.kind == "duplicate":
        mouths.append((0.295, -0.14)[fault.choose(2)])
    for x, y in eyes:
        canvas.ellipse(x, y, 0.078, 0.058, (250, 250, 250))
        canvas.ellipse(x, y, 0.038, 0.044, iris)
        canvas.capsule((x - 0.05, y - 0.088), (x + 0.05, y - 0.092), 0.013, shade(hair, 0.6))
    canvas.polygon([(0, 0.02), (0.038, 0.12), (-0.038, 0.12)], shade(skin, 0.75))
    for y in mouths:
        _draw_mouth(canvas, scene.attributes["mood"], y)
    return [Part(-0.1, 0, 0.1), Part(0.1, 0, 0.1), Part(0, 0.2, 0.12), Part(0, 0.08, 0.12)]


def _draw_mouth(canvas: Canvas, mood: str, y: float) -> None:
    lips: Colour = (150, 40, 50)
    if mood == "surprised":
        canvas.ellipse(0, y, 0.05, 0.055, lips)
        return
    bend = -1.0 if mood == "sad" else 1.0
    canvas.stroke([(x, y + bend * (0.045 - 4.5 * x * x)) for x in np.linspace(-0.11, 0.11, 9)], 0.045, lips)


def _draw_sign(canvas: Canvas, scene: Scene, fault: Fault | None) -> list[Part]:
    colour, word = COLOURS[scene.attributes["colour"]], scene.attributes["word"].upper()
    ink: Colour = (250, 250, 245) if luminance(colour) < 150 else (25, 25, 30)
    canvas.box(-0.035, 0.1, 0.035, 0.54, (96, 76, 60))
    canvas.box(-0.485, -0.315, 0.485, 0.235, shade(colour, 0.55))
    canvas.box(-0.46, -0.29, 0.46, 0.21, colour)
    spacing, height = 0.86 / len(word), (0.34 if len(word) == 2 else 0.27)
    places = [-0.43 + spacing * (i + 0.5) for i in range(len(word))]
    spoilt = fault.choose(len(word)) if fault is not None else -1
    for i, (letter, x) in enumerate(zip(word, places, strict=True)):
        if fault is not None and i == spoilt:
            _draw_spoilt_letter(canvas, fault, x, height, ink)
        else:
            canvas.glyph(letter, x, -0.04, height, ink)
    return [Part(x, -0.04, 0.15) for x in places]


def _draw_spoilt_letter(canvas: Canvas, fault: Fault, x: float, height: float, ink: Colour) -> None:
    """Draw a spoilt letter: a scribble (garble), or one mirrored and rotated (flip)."""
    rng = np.random.default_rng(int(fault.where * 1e6))
    if fault.kind == "flip":
        turn = float(rng.choice([90, 180, 35, -35]))
        canvas.glyph("RGFKQ"[int(rng.integers(5))], x, -0.04, height, ink, mirrored=True, turn=turn)
        return
    scribble = [
        (x + rng.uniform(-0.5, 0.5) * height, -0.04 + rng.uniform(-0.52, 0.52) * height) for _ in range(6)
    ]
    canvas.stroke(scribble, height / 6, ink)


def _draw_animal(canvas: Canvas, scene: Scene, fault: Fault | None) -> list[Part]:
    colour, kind = COLOURS[scene.attributes["colour"]], scene.attributes["kind"]
    horse = kind == "horse"
    leg, belly = (0.28 if horse else 0.2), (0.115 if kind == "cat" else 0.13)
    hx, hy = (0.34, -0.27) if horse else (0.32, -0.2)
    legs, second_head = [-0.2, -0.12, 0.12, 0.2], False
    tails = [_Limb((-0.25, -0.05), (-0.38, -0.2), 0.034 if horse else 0.022)]
    if fault is not None and fault.kind == "extra":
        legs.append((0.0, -0.035, 0.035, 0.285)[fault.choose(4)])
    elif fault is not None and fault.kind == "missing":
        legs.pop(fault.choose(4))
    elif fault is not None and fault.kind == "duplicate":
        second_head = fault.where > 0.5
        tails.append(_Limb((-0.25, 0.0), (-0.43, 0.04), tails[0].radius))
    for paint, grow in ((shade(colour, 0.55), OUTLINE), (colour, 0.0)):
        for x in legs:
            canvas.capsule((x, 0.05), (x + (0.01 if x > 0 else -0.01), 0.08 + leg), 0.03 + grow, paint)
        for tail in tails:
            canvas.capsule(tail.start, tail.end, tail.radius + grow, paint)
        canvas.ellipse(0, 0, 0.28 + grow, belly + grow, paint)
        canvas.capsule((0.2, -0.04), (hx - 0.03, hy + 0.04), 0.07 + grow, paint)
        if second_head:
            canvas.ellipse(hx - 0.28, hy + 0.01, 0.1 + grow, 0.09 + grow, paint)
            canvas.capsule((hx - 0.28, hy), (0.05, 0.0), 0.05 + grow, paint)
        canvas.ellipse(hx, hy, (0.1 if horse else 0.11) + grow, 0.095 + grow, paint)
        _draw_head_features(canvas, kind, hx, hy, paint, grow)
    canvas.ellipse(
        hx + 0.035, hy - 0.02, 0.021, 0.023, (20, 20, 20) if luminance(colour) > 75 else (240, 240, 240)
    )
    return [Part(-0.16, 0.2, 0.14), Part(0.16, 0.2, 0.14), Part(hx, hy, 0.15), Part(0, 0, 0.16)]


def _draw_head_features(canvas: Canvas, kind: str, x: float, y: float, paint: Colour, grow: float) -> None:
    if kind == "horse":
        canvas.ellipse(x + 0.09, y + 0.04, 0.09 + grow, 0.06 + grow, paint)
        ears, ear_half, ear_top = [-0.04], 0.03, 0.16
    elif kind == "dog":
        canvas.ellipse(x + 0.09, y + 0.03, 0.06 + grow, 0.045 + grow, paint)
        canvas.ellipse(x - 0.07, y + 0.03, 0.04 + grow, 0.085 + grow, shade(paint, 1.0 if grow else 0.7))
        return
    else:
        ears, ear_half, ear_top = [-0.06, 0.05], 0.045, 0.165
    for e in ears:
        canvas.polygon(
            [
                (x + e - ear_half - grow, y - 0.05),
                (x + e + ear_half + grow, y - 0.05),
                (x + e, y - ear_top - grow),
            ],
            paint,
        )


def _draw_mug(canvas: Canvas, scene: Scene, fault: Fault | None) -> list[Part]:
    colour = COLOURS[scene.attributes["colour"]]
    handle = [(0.2 + 0.155 * np.sin(a), 0.03 - 0.145 * np.cos(a)) for a in np.linspace(0, np.pi, 14)]
    for paint, grow in ((shade(colour, 0.55), OUTLINE), (colour, 0.0)):
        canvas.stroke(handle, 0.06 + 2 * grow, paint)
        g = grow
        canvas.polygon(
            [(-0.25 - g, -0.25 - g), (0.23 + g, -0.25 - g), (0.21 + g, 0.31 + g), (-0.23 - g, 0.31 + g)],
            paint,
        )
    canvas.ellipse(-0.01, -0.25, 0.238, 0.065, shade(colour, 0.75))
    canvas.ellipse(-0.01, -0.245, 0.2, 0.046, (92, 60, 40))
    return [Part(0.3, 0.03, 0.14), Part(-0.1, 0.1, 0.16), Part(0, -0.22, 0.14)]


def _draw_house(canvas: Canvas, scene: Scene, fault: Fault | None) -> list[Part]:
    colour = COLOURS[scene.attributes["colour"]]
    roof: Colour = (150, 70, 56)
    for paint, g in ((shade(colour, 0.5), OUTLINE), (colour, 0.0)):
        canvas.box(-0.3 - g, -0.05 - g, 0.3 + g, 0.34 + g, paint)
    canvas.polygon([(-0.39, -0.04), (0.39, -0.04), (0, -0.37)], shade(roof, 0.6))
    canvas.polygon([(-0.35, -0.06), (0.35, -0.06), (0, -0.34)], roof)
    canvas.box(-0.07, 0.12, 0.07, 0.34, (80, 56, 44))
    for x in (-0.19, 0.19):
        canvas.box(x - 0.08, 0.02, x + 0.08, 0.16, (60, 60, 70))
        canvas.box(x - 0.058, 0.042, x + 0.058, 0.138, (190, 226, 240))
    return [Part(-0.19, 0.08, 0.13), Part(0.19, 0.08, 0.13), Part(0, -0.2, 0.17), Part(0, 0.22, 0.14)]


def _draw_tree(canvas: Canvas, scene: Scene, fault: Fault | None) -> list[Part]:
    colour = COLOURS[scene.attributes["colour"]]
    canvas.capsule((0, 0.1), (0, 0.4), 0.062, (66, 44, 28))
    canvas.capsule((0, 0.1), (0, 0.4), 0.046, (112, 76, 48))
    balls = [(0.0, -0.2, 0.17), (-0.15, -0.06, 0.15), (0.15, -0.06, 0.15), (0.0, 0.0, 0.16)]
    for paint, grow in ((shade(colour, 0.55), OUTLINE), (colour, 0.0)):
        for x, y, radius in balls:
            canvas.ellipse(x, y, radius + grow, radius + grow, paint)
    for x, y, radius in balls:
        canvas.ellipse(x - 0.03, y - 0.04, radius * 0.4, radius * 0.35, shade(colour, 1.18))
    return [Part(0, -0.2, 0.16), Part(-0.15, -0.06, 0.14), Part(0, 0.25, 0.14)]


SUBJECTS: dict[str, Subject] = {
    "hand": Subject(_draw_hand, scale=1.03, shift=0.05),
    "face": Subject(_draw_face),
    "sign": Subject(_draw_sign, scale=0.87, tilt=0.4),
    "animal": Subject(_draw_animal, scale=0.9, tilt=0.4, shift=-0.05),
    "mug": Subject(_draw_mug, scale=1.05, tilt=0.5, shift=-0.05),
    "house": Subject(_draw_house, scale=1.05, tilt=0.4),
    "tree": Subject(_draw_tree, scale=1.05, tilt=0.4),
}
