"""The images of the annotators' tutorial: three practice images with answers, three guideline examples.

    python -m dataengine.clinic.lessons ui/annotate/static

renders the ones that the annotation page ships, from the world's validation stream, so that no training and
no measurement ever uses them.
"""

import base64
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from dataengine.clinic.world import Drawing, stream
from dataengine.masks import PALETTE, LabelMap, overlay_labels, pack_label_map

SCALE = 4
TINT = 0.45
BORDER = 2
SOFTNESS = 2.0
EXAMPLES = (0, 1, 105)
"""Flawed drawings of the validation stream that show classes 1, 2 and 3."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A practice image: its drawing, whether a detector's prediction is shown with it, and the texts of the
    page."""

    index: int
    flawed: bool
    suspected: bool
    points: str
    """The control of the page to press first."""
    text: str
    hint: str


LESSONS = (
    Lesson(
        index=0,
        flawed=True,
        suspected=True,
        points="accept",
        text="The outlined violet area is the detector's prediction. Press A to accept it as class 1, shape "
        "distortion, then press Enter.",
        hint="Accept the outlined suggestion: it marks the artifact.",
    ),
    Lesson(
        index=1,
        flawed=True,
        suspected=False,
        points="brush-tool",
        text="No suggestion this time. Find what is broken, choose its class (1, 2 or 3), paint it with the "
        "brush (B) or lasso (L), erase with E, then press Enter.",
        hint="One finger is too many, which is class 2, unreasonable content. Paint that finger, tightly.",
    ),
    Lesson(
        index=7,
        flawed=False,
        suspected=False,
        points="clean",
        text="The last one: look closely. If there is no artifact, press C for clean.",
        hint="There is no artifact here, so the answer is C.",
    ),
)


def write_lessons(folder: Path) -> None:
    """Write practice-N.png, guide-N.png and practice.json, which holds the answers, into the folder."""
    described = []
    for number, lesson in enumerate(LESSONS, 1):
        drawing = stream("validation", flawed=float(lesson.flawed))[lesson.index]
        Image.fromarray(enlarged(drawing.image)).save(folder / f"practice-{number}.png")
        described.append(practice_entry(lesson, drawing, f"practice-{number}.png"))
    for number, index in enumerate(EXAMPLES, 1):
        Image.fromarray(guideline(stream("validation", flawed=1.0)[index])).save(
            folder / f"guide-{number}.png"
        )
    (folder / "practice.json").write_text(json.dumps(described, indent=1))


def practice_entry(lesson: Lesson, drawing: Drawing, file: str) -> dict[str, Any]:
    """The entry of a practice image in practice.json; label maps are packed as the page packs its own."""
    truth = enlarged(drawing.label_map)
    entry = {
        "file": file,
        "width": truth.shape[1],
        "height": truth.shape[0],
        "prompt": drawing.caption,
        "points": lesson.points,
        "text": lesson.text,
        "hint": lesson.hint,
        "truth": packed(truth),
    }
    return entry | ({"suspected": packed(ideal_prediction(truth))} if lesson.suspected else {})


def enlarged(image: Pixels) -> Pixels:
    """The array (HW or HWC) enlarged: every pixel becomes a square of `SCALE` by `SCALE`."""
    return image.repeat(SCALE, 0).repeat(SCALE, 1)


def ideal_prediction(truth: LabelMap) -> LabelMap:
    """An ideal detector's prediction: the true mask blurred, in steps of 8 from 0 to 120, uint8 HW."""
    soft = ndimage.gaussian_filter((truth > 0).astype(np.float32), SOFTNESS)
    return (np.rint(127 * soft) // 8 * 8).astype(np.uint8)


def packed(label_map: LabelMap) -> str:
    return base64.b64encode(pack_label_map(label_map)).decode()


def guideline(drawing: Drawing) -> Pixels:
    """The drawing, and next to it the same with the artifact tinted and outlined in its class's colour."""
    image, label_map = enlarged(drawing.image), enlarged(drawing.label_map)
    inside = label_map > 0
    border = inside & ~ndimage.binary_erosion(inside, iterations=BORDER, border_value=0)
    marked = overlay_labels(image, label_map, TINT)
    marked[border] = np.array(PALETTE, np.uint8)[label_map[border] - 1]
    return np.concatenate([image, marked], axis=1)


if __name__ == "__main__":
    write_lessons(Path(sys.argv[1]))
