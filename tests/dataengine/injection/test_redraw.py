"""What a generator redraws of a clean image, and the image that it makes: exact masks, any size."""

import numpy as np
import pytest
from pydantic import ValidationError

from dataengine.errors import InputRefused
from dataengine.injection.config import InjectionConfig, RedrawConfig
from dataengine.injection.operations import SHAPE_DISTORTION
from dataengine.injection.redraw import plan_redraw, redrawn
from tests.dataengine.injection.test_inject import textured

CONFIG = InjectionConfig()


@pytest.mark.parametrize(
    ("size", "drawn", "multiple", "window"),
    [
        ((64, 64), (64, 64), 8, (64, 64)),
        ((500, 375), (512, 512), 8, (496, 368)),
        ((375, 500), (64, 64), 16, (64, 64)),
        ((33, 4000), (1024, 1024), 16, (32, 1024)),
        ((100, 90), (96, 128), 32, (96, 64)),
    ],
)
def test_the_generator_sees_a_window_that_it_can_draw_at_the_images_own_scale(
    size: tuple[int, int], drawn: tuple[int, int], multiple: int, window: tuple[int, int]
) -> None:
    for name in map(str, range(20)):
        plan = plan_redraw(size, name, CONFIG, drawn, multiple)
        rows, columns = plan.window
        assert (rows.stop - rows.start, columns.stop - columns.start) == window == plan.region.shape
        assert rows.start >= 0 and rows.stop <= size[0] and columns.start >= 0 and columns.stop <= size[1]
        assert plan.region.any() and not plan.region.all()
        assert 0 <= plan.seed < 2**31


def test_a_plan_depends_on_name_and_seed_alone() -> None:
    first, again = (plan_redraw((90, 120), "a", CONFIG, (64, 64), 8) for _ in range(2))
    assert first.window == again.window and first.seed == again.seed
    assert np.array_equal(first.region, again.region)
    for other in (
        plan_redraw((90, 120), "b", CONFIG, (64, 64), 8),
        plan_redraw((90, 120), "a", InjectionConfig(seed=1), (64, 64), 8),
    ):
        assert other.seed != first.seed and not np.array_equal(other.region, first.region)


@pytest.mark.parametrize(
    ("size", "drawn", "multiple", "reason"),
    [
        ((20, 64), (64, 64), 8, "an image of 20×64 pixels is too small for an injected artifact"),
        ((60, 200), (512, 512), 64, "too small for this generator, which draws sides of 64, 128, … up to"),
        ((400, 400), (28, 28), 4, "too small for this generator, which draws sides of 32, 36, … up to 28×28"),
    ],
)
def test_sizes_that_cannot_be_drawn_are_refused(
    size: tuple[int, int], drawn: tuple[int, int], multiple: int, reason: str
) -> None:
    with pytest.raises(InputRefused, match=reason):
        plan_redraw(size, "a", CONFIG, drawn, multiple)


@pytest.mark.parametrize("size", [(64, 64), (97, 161), (300, 50)])
def test_only_the_region_changes_and_its_map_is_exact(size: tuple[int, int]) -> None:
    pixels = textured(*size)
    before = pixels.copy()
    plan = plan_redraw(size, "a", CONFIG, (64, 64), 8)
    drawn = 255 - pixels[plan.window]
    made = redrawn(pixels, plan, drawn, CONFIG, {"generator": "g"})
    expected = np.zeros(size, bool)
    expected[plan.window] = plan.region
    assert np.array_equal(made.label_map, np.where(expected, SHAPE_DISTORTION, 0))
    assert np.array_equal(pixels, before)
    assert np.array_equal(made.pixels[~expected], pixels[~expected])
    assert (made.pixels[expected] != pixels[expected]).any(axis=-1).mean() > 0.5
    assert made.parameters == {"kind": "redraw", "seed": 0, "generator": "g"}


def test_a_redraw_that_looks_like_the_image_is_refused() -> None:
    pixels = textured(64, 64)
    plan = plan_redraw((64, 64), "a", CONFIG, (64, 64), 8)
    nearly = np.clip(pixels[plan.window].astype(int) + 3, 0, 255).astype(np.uint8)
    for drawn in (pixels[plan.window], nearly):
        with pytest.raises(InputRefused, match="the redrawn region looks like the image itself"):
            redrawn(pixels, plan, drawn, CONFIG, {})


@pytest.mark.parametrize("settings", [{"steps": 1, "strength": 0.9}, {"steps": 4, "strength": 0.2}])
def test_a_strength_that_leaves_no_step_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="leaves none of"):
        RedrawConfig.model_validate(settings)
