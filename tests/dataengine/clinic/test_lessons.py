"""The practice and guideline pictures in the page's folder are those that the script draws."""

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from dataengine.clinic.lessons import EXAMPLES, LESSONS, write_lessons
from dataengine.clinic.world import stream
from dataengine.records.labels import DEFAULT_CLASSES

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "ui" / "annotate" / "static"
PAGES = (ROOT / "ui" / "annotate" / "page.html", ROOT / "docs" / "annotators.md")


def test_the_shipped_pictures_are_drawn_again(tmp_path: Path) -> None:
    write_lessons(tmp_path)
    drawn = sorted(path.name for path in tmp_path.glob("*.png"))
    assert drawn == sorted(path.name for path in SHIPPED.glob("*.png"))
    for name in drawn:
        mine, shipped = (np.asarray(Image.open(folder / name)) for folder in (tmp_path, SHIPPED))
        assert np.array_equal(mine, shipped), name
    mine, shipped = (json.loads((folder / "practice.json").read_text()) for folder in (tmp_path, SHIPPED))
    assert mine == shipped


def test_the_guideline_has_the_papers_classes_and_leaves_out_what_takes_reasoning() -> None:
    """DiffDoctor, Sec. 3.1: extra limbs and wrong finger counts are unreasonable content, not distortion."""
    for page in PAGES:
        text = re.sub(r"<[^>]+>", " ", page.read_text())
        starts = [
            re.search(rf"{number} {name}", text, re.IGNORECASE)
            for number, name in enumerate(DEFAULT_CLASSES, 1)
        ]
        assert all(starts), page.name
        first, second, third = (found.start() for found in starts if found)
        distortion, unreasonable = text[first:second].lower(), text[second:third].lower()
        assert all(word in distortion for word in ("hands", "faces", "words"))
        assert not any(word in distortion for word in ("extra", "missing", "number"))
        assert all(word in unreasonable for word in ("extra", "limbs", "number of fingers"))
        assert re.search(r"reasoning to find,?\s*\(?(such as )?a floating object", text), page.name


def test_examples_and_lessons_show_the_classes_that_they_name() -> None:
    for number, index in enumerate(EXAMPLES, 1):
        assert set(np.unique(stream("validation", flawed=1.0)[index].label_map)) == {0, number}
    for lesson in LESSONS:
        drawing = stream("validation", flawed=float(lesson.flawed))[lesson.index]
        words = lesson.text + lesson.hint
        named = {int(number) for number in re.findall(r"class (\d)", words)}
        assert named == set(np.unique(drawing.label_map[drawing.label_map > 0]).tolist())
        assert all(DEFAULT_CLASSES[number - 1] in words for number in named)
