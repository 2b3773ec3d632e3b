"""Repair: what is redrawn, what is taken, and that nothing else changes. Never worse."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from dataengine.errors import InputRefused
from dataengine.masks import feather_inwards
from dataengine.records import OperatingPoint
from dataengine.treatment.repair.config import RepairConfig
from dataengine.treatment.repair.paste import match_colour, paste
from dataengine.treatment.repair.regions import (
    Box,
    Region,
    choose_regions,
    crop_around,
    dilate,
    drawing_size,
)
from dataengine.treatment.repair.repair import Canvas, Judge, new_artifact, repair_image

Pixels = NDArray[np.uint8]
POINT = OperatingPoint(flagged=0.5, component=0.3)
RED, GREEN = (200, 0, 0), (0, 200, 0)
SIZE = (32, 32)


def scene(*spots: tuple[int, int], side: int = 8, height: int = 96, width: int = 128) -> Pixels:
    """A grey gradient with red squares: the artifacts of these tests."""
    image = np.repeat(np.linspace(60, 120, width, dtype=np.uint8)[None, :, None], height, axis=0)
    image = np.repeat(image, 3, axis=2).copy()
    for top, left in spots:
        image[top : top + side, left : left + side] = RED
    return image


def red(images: Sequence[Pixels]) -> list[NDArray[np.float32]]:
    """A detector of red: 0.9 where red is much stronger than green."""
    return [
        ((image[..., 0].astype(int) - image[..., 1]) > 60).astype(np.float32) * np.float32(0.9)
        for image in images
    ]


def green(images: Sequence[Pixels]) -> list[NDArray[np.float32]]:
    return [
        ((image[..., 1].astype(int) - image[..., 0]) > 60).astype(np.float32) * np.float32(0.9)
        for image in images
    ]


def painting(*colours: tuple[int, int, int]) -> Canvas:
    """A generator that fills what is masked: the first draw with the first colour, and so on in turns."""

    def redraw(crops, masks, seeds):  # type: ignore[no-untyped-def]
        colour = [colours[seed % 1000 % len(colours)] for seed in seeds]
        return [
            np.where(mask[..., None], np.array(one, np.uint8), crop)
            for crop, mask, one in zip(crops, masks, colour, strict=True)
        ]

    return Canvas(redraw=redraw, size=SIZE, multiple=8)


DETECTOR = Judge(predict=red, point=POINT)
CHOOSER = Judge(predict=green, point=POINT)
CONFIG = RepairConfig(draws=2, grow=0.06)


def test_an_artifact_is_replaced_and_every_other_pixel_keeps_its_bytes() -> None:
    image = scene((20, 30), (70, 100))
    found = repair_image(image, DETECTOR, None, painting((90, 90, 90)), CONFIG)
    assert found.changed and [one.verdict for one in found.outcomes] == ["repaired", "repaired"]
    changed = (found.pixels != image).any(axis=-1)
    masks = np.logical_or.reduce([one.region.mask for one in found.outcomes])
    assert not changed[~masks].any() and changed[20:28, 30:38].all()
    assert red([found.pixels])[0].max() == 0


def test_a_clean_image_is_returned_as_it_is() -> None:
    image = scene()
    found = repair_image(image, DETECTOR, None, painting(GREEN), CONFIG)
    assert found.pixels is image and found.outcomes == [] and not found.changed


@pytest.mark.parametrize(
    ("colours", "chooser", "verdict"),
    [
        ([RED], None, "still flawed"),
        ([GREEN], CHOOSER, "the chooser found it worse"),
    ],
)
def test_what_is_not_better_is_not_taken(colours, chooser, verdict) -> None:  # type: ignore[no-untyped-def]
    image = scene((20, 30))
    found = repair_image(image, DETECTOR, chooser, painting(*colours), CONFIG)
    assert np.array_equal(found.pixels, image) and [one.verdict for one in found.outcomes] == [verdict]


def test_of_the_candidates_a_good_one_is_taken() -> None:
    found = repair_image(
        scene((20, 30)), DETECTOR, CHOOSER, painting(RED, GREEN, (90, 90, 90)), RepairConfig(draws=3)
    )
    assert [one.draw for one in found.outcomes] == [2]


def test_an_artifact_elsewhere_refuses_the_candidate() -> None:
    """A detector that sees the whole image may find a new artifact far from what was redrawn."""
    image = scene((20, 30))

    def jealous(images: Sequence[Pixels]) -> list[NDArray[np.float32]]:
        maps = red(images)
        for each in maps:
            if each.max() == 0:
                each[80:90, 10:20] = 0.8
        return maps

    found = repair_image(image, Judge(predict=jealous, point=POINT), None, painting((90, 90, 90)), CONFIG)
    assert np.array_equal(found.pixels, image)
    assert [one.verdict for one in found.outcomes] == ["something new appeared"]


def test_repairs_that_are_good_alone_and_bad_together_are_undone() -> None:
    image = scene((20, 30), (70, 100))

    def pairs(images: Sequence[Pixels]) -> list[NDArray[np.float32]]:
        maps = red(images)
        for each in maps:
            if each.max() == 0:
                each[20:28, 30:38] = 0.9
        return maps

    found = repair_image(image, Judge(predict=pairs, point=POINT), None, painting((90, 90, 90)), CONFIG)
    assert np.array_equal(found.pixels, image) and not found.changed


def test_artifacts_that_cover_the_image_are_refused() -> None:
    with pytest.raises(InputRefused, match="cover 100% of the image"):
        repair_image(scene((0, 0), side=200), DETECTOR, None, painting(GREEN), CONFIG)


def test_only_artifacts_among_those_that_are_named() -> None:
    image, among = scene((20, 30), (70, 100)), np.zeros((96, 128), bool)
    among[75, 105] = True
    found = repair_image(image, DETECTOR, None, painting((90, 90, 90)), CONFIG, among)
    assert [one.region.mask[75, 105] for one in found.outcomes] == [True]
    assert np.array_equal(found.pixels[:60], image[:60])


@pytest.mark.parametrize(("side", "refused"), [(15, True), (16, False), (40, False)])
def test_an_image_smaller_than_the_generator_can_draw_is_refused(side: int, refused: bool) -> None:
    """A generator of 32 × 32 pixels draws an image of 16 × 16 twice as large, which is `zoom`."""
    image = scene((4, 4), side=3, height=side, width=side)
    config = RepairConfig(draws=1, zoom=2.0, least=0)
    if refused:
        with pytest.raises(InputRefused, match="it is 15×15 pixels, and the generator draws 32×32"):
            repair_image(image, DETECTOR, None, painting((90, 90, 90)), config)
    else:
        assert repair_image(image, DETECTOR, None, painting((90, 90, 90)), config).changed
    clean = scene(height=side, width=side)
    assert not repair_image(clean, DETECTOR, None, painting(GREEN), config).changed, "nothing is to be drawn"


def test_regions_follow_thresholds_areas_and_count() -> None:
    confidence = np.zeros((100, 100), np.float32)
    confidence[10:20, 10:20] = 0.9
    confidence[50:70, 50:70] = 0.6
    confidence[80:90, 10:20] = 0.4  # below `flagged`
    confidence[40, 90] = 0.99  # smaller than `least`
    config = RepairConfig(least=0.0005, grow=0.02)
    found = choose_regions(confidence, POINT, SIZE, config)
    assert [(region.mask[15, 15], region.mask[60, 60]) for region in found] == [(True, False), (False, True)]
    assert [region.peak for region in found] == pytest.approx([0.9, 0.6])
    (largest,) = choose_regions(confidence, POINT, SIZE, config.model_copy(update={"count": 1}))
    assert largest.mask[60, 60], "the one with the most confidence in total"


def test_artifacts_whose_margins_touch_are_one_region() -> None:
    confidence = np.zeros((100, 100), np.float32)
    confidence[20:30, 20:30] = confidence[20:30, 36:46] = 0.9
    assert len(choose_regions(confidence, POINT, SIZE, RepairConfig(grow=0.05))) == 1
    assert len(choose_regions(confidence, POINT, SIZE, RepairConfig(grow=0.01))) == 2


def test_a_mask_grows_by_a_disk() -> None:
    mask = np.zeros((21, 21), bool)
    mask[10, 10] = True
    rows, columns = np.mgrid[:21, :21]
    assert np.array_equal(dilate(mask, 4), (rows - 10) ** 2 + (columns - 10) ** 2 <= 16)
    assert np.array_equal(dilate(mask, 0), mask)


@pytest.mark.parametrize("corner", [(0, 0), (0, 100), (80, 0), (80, 100), (40, 50)])
@pytest.mark.parametrize("sides", [(8, 8), (8, 28), (60, 20)])
def test_a_crop_holds_its_region_within_the_image(corner: tuple[int, int], sides: tuple[int, int]) -> None:
    mask = np.zeros((140, 160), bool)
    mask[corner[0] : corner[0] + sides[0], corner[1] : corner[1] + sides[1]] = True
    box = crop_around(mask, (64, 64), RepairConfig(context=3, zoom=2))
    assert box.top >= 0 and box.left >= 0 and box.bottom <= 140 and box.right <= 160
    assert mask[box.slices].sum() == mask.sum()
    drawn = drawing_size(box.size, (64, 64), 8)
    assert drawn[0] % 8 == drawn[1] % 8 == 0
    assert drawn[0] * drawn[1] == pytest.approx(64 * 64, rel=0.2)
    assert drawn[0] / box.size[0] <= 2.2, "enlarged at most `zoom` times, but for rounding"
    assert drawn[0] / drawn[1] == pytest.approx(box.size[0] / box.size[1], rel=0.2)


def test_a_large_region_is_shrunk_to_what_the_generator_draws() -> None:
    mask = np.zeros((2000, 2000), bool)
    mask[500:1100, 500:1100] = True
    box = crop_around(mask, (512, 512), RepairConfig(context=3))
    assert box.size == (1800, 1800) and drawing_size(box.size, (512, 512), 16) == (512, 512)


def test_the_feather_lies_within_the_mask_and_ends_at_the_images_border() -> None:
    mask = np.zeros((40, 40), bool)
    mask[:20, 10:30] = True
    alpha = feather_inwards(mask, 4)
    assert (alpha[~mask] == 0).all() and alpha[0, 20] == 1 and 0 < alpha[10, 10] < 1 and alpha[10, 20] == 1


def test_a_shift_of_colour_is_taken_back() -> None:
    known = scene()[:40, :40]
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    tinted = np.clip(known.astype(int) + np.array([12, -7, 3]), 0, 255).astype(np.uint8)
    assert np.abs(match_colour(tinted, known, mask) - known).max() <= 1
    region = Region(mask=mask, crop=Box(top=0, left=0, bottom=40, right=40), peak=1)
    assert np.abs(paste(known, region, tinted, 3).astype(int) - known).max() <= 1


def test_new_artifacts_are_those_that_touch_no_known_one() -> None:
    before, after = np.zeros((2, 30, 30), np.float32)
    before[5:10, 5:10] = 0.9
    after[4:12, 4:12] = 0.9
    assert not new_artifact(before, after, POINT)
    after[20:24, 20:24] = 0.45
    assert not new_artifact(before, after, POINT), "below the threshold of images"
    after[20:24, 20:24] = 0.7
    assert new_artifact(before, after, POINT)


def test_settings_that_contradict_are_refused() -> None:
    with pytest.raises(ValidationError, match="must be below largest"):
        RepairConfig(least=0.5, largest=0.4)
