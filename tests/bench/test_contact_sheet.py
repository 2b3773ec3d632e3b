"""Contact sheets: sizes, and marks that are red where something is marked and nowhere else."""

import numpy as np

from tests.bench.contact_sheet import GAP, contact_sheet, highlight


def test_a_sheet_has_room_for_every_image_and_its_mark() -> None:
    images = np.zeros((5, 8, 8, 3), np.uint8)
    assert contact_sheet(images, columns=3, scale=2).size == (3 * (16 + GAP), 2 * (16 + GAP))
    marked = contact_sheet(images, np.zeros((5, 8, 8)), columns=3, scale=2)
    assert marked.size == (3 * (16 + GAP), 4 * (16 + GAP))


def test_marks_are_red_and_the_rest_is_dimmed() -> None:
    image, mark = np.full((4, 4, 3), 200, np.uint8), np.zeros((4, 4))
    mark[0, 0] = 1
    shown = highlight(image, mark)
    assert shown[0, 0, 0] > 200 > 100 > shown[0, 0, 1]
    assert (shown[1:] == 150).all()
