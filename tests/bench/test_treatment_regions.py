"""What `bench-treatment`'s sections on regions decide by: the concept's hue, and the limits of likeness."""

import colorsys

import numpy as np

from dataengine.clinic.scenes import COLOURS
from tests.bench.treatment_regions import concept_share, holds


def test_the_concepts_hue_is_found_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(2, 9, 7, 3), dtype=np.uint8)
    wanted = colorsys.rgb_to_hsv(*(channel / 255 for channel in COLOURS["red"]))[0]
    expected = []
    for image in pixels.reshape(2, -1, 3):
        count = 0
        for pixel in image:
            hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
            apart = min(abs(hue - wanted), 1 - abs(hue - wanted))
            count += apart < 14 / 360 and saturation > 0.5 and value > 0.25
        expected.append(count / len(image))
    assert concept_share(pixels).tolist() == expected and sum(expected) > 0


def test_red_is_no_other_colour_of_the_world() -> None:
    flat = {name: np.full((1, 4, 4, 3), colour, np.uint8) for name, colour in COLOURS.items()}
    assert {name for name, image in flat.items() if concept_share(image)[0] > 0.5} == {"red"}


def test_likeness_has_a_side() -> None:
    assert holds(20.1, "psnr") and not holds(20.0, "psnr")
    assert holds(0.19, "feature_distance") and not holds(0.2, "feature_distance")
