"""The practice and guideline pictures in the page's folder are those that the script draws."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from dataengine.clinic.lessons import write_lessons

SHIPPED = Path(__file__).resolve().parents[3] / "ui" / "annotate" / "static"


def test_the_shipped_pictures_are_drawn_again(tmp_path: Path) -> None:
    write_lessons(tmp_path)
    drawn = sorted(path.name for path in tmp_path.glob("*.png"))
    assert drawn == sorted(path.name for path in SHIPPED.glob("*.png"))
    for name in drawn:
        mine, shipped = (np.asarray(Image.open(folder / name)) for folder in (tmp_path, SHIPPED))
        assert np.array_equal(mine, shipped), name
    mine, shipped = (json.loads((folder / "practice.json").read_text()) for folder in (tmp_path, SHIPPED))
    assert mine == shipped
