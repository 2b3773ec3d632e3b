"""The pictures that teach annotators: three practice images with answers, three examples of a guideline.

    python -m dataengine.clinic.lessons ui/annotate/static

draws those that the annotation page ships, from the world's validation stream, so that no training and no
measurement ever uses them.
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
    """A practice image: which drawing it is, whether a detector's guess comes along, what the page says."""

    index: int
    flawed: bool
    suspected: bool
    text: str
    hint: str


LESSONS = (
    Lesson(
        index=0,
        flawed=True,
        suspected=True,
        text="The violet tint is what the detector suspects, outlined. Click the outlined part with "
        "Suggest (V), or press A, to accept it; then Enter.",
        hint="Accept the outlined suggestion: it is the broken part.",
    ),
    Lesson(
        index=1,
        flawed=True,
        suspected=False,
        text="No help this time: paint what is broken with the brush (B), erase with E, then Enter.",
        hint="One finger has a second tip: paint that, tightly.",
    ),
    Lesson(
        index=7,
        flawed=False,
        suspected=False,
        text="Last one: look closely. If nothing is broken, press C for clean.",
        hint="nothing here is broken, so C is the answer.",
    ),
)


def write_lessons(folder: Path) -> None:
    """Write practice-N.png, guide-N.png and practice.json, which holds the answers, into the folder."""
    described = []
    for number, lesson in enumerate(LESSONS, 1):
        drawing = stream("validation", flawed=float(lesson.flawed))[lesson.index]
        Image.fromarray(enlarged(drawing.image)).save(folder / f"practice-{number}.png")
        described.append(description(lesson, drawing, f"practice-{number}.png"))
    for number, index in enumerate(EXAMPLES, 1):
        Image.fromarray(example(stream("validation", flawed=1.0)[index])).save(folder / f"guide-{number}.png")
    (folder / "practice.json").write_text(json.dumps(described, indent=1))


def description(lesson: Lesson, drawing: Drawing, file: str) -> dict[str, Any]:
    """What practice.json says of a practice image; label maps are packed as the page packs its own."""
    truth = enlarged(drawing.label_map)
    said = {
        "file": file,
        "width": truth.shape[1],
        "height": truth.shape[0],
        "prompt": drawing.caption,
        "text": lesson.text,
        "hint": lesson.hint,
        "truth": packed(truth),
    }
    return said | ({"suspected": packed(suspicion(truth))} if lesson.suspected else {})


def enlarged(image: Pixels) -> Pixels:
    """Every pixel as a square of `SCALE` by `SCALE`, HW or HWC."""
    return image.repeat(SCALE, 0).repeat(SCALE, 1)


def suspicion(truth: LabelMap) -> LabelMap:
    """A detector's guess, as good as one can be: the truth blurred, in steps of 8 from 0 to 120, uint8 HW."""
    soft = ndimage.gaussian_filter((truth > 0).astype(np.float32), SOFTNESS)
    return (np.rint(127 * soft) // 8 * 8).astype(np.uint8)


def packed(label_map: LabelMap) -> str:
    return base64.b64encode(pack_label_map(label_map)).decode()


def example(drawing: Drawing) -> Pixels:
    """The drawing, and beside it the same with what counts tinted and bordered in its class's colour."""
    image, label_map = enlarged(drawing.image), enlarged(drawing.label_map)
    inside = label_map > 0
    border = inside & ~ndimage.binary_erosion(inside, iterations=BORDER, border_value=0)
    marked = overlay_labels(image, label_map, TINT)
    marked[border] = np.array(PALETTE, np.uint8)[label_map[border] - 1]
    return np.concatenate([image, marked], axis=1)


if __name__ == "__main__":
    write_lessons(Path(sys.argv[1]))
