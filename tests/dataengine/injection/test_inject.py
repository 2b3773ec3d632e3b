"""Injected artifacts: exact masks, seen changes, reproducible, for images of any size."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from dataengine.errors import InputRefused
from dataengine.injection.config import InjectionConfig
from dataengine.injection.inject import inject, smooth_region
from dataengine.injection.operations import OPERATIONS
from dataengine.records import INJECTION_KINDS, InjectionKind

SIZES = [(32, 32), (64, 48), (97, 161), (40, 700), (512, 384)]


def textured(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Texture of several scales, so that every operation changes it visibly."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cell in (4, 9, 23):
        coarse = rng.uniform(0, 255, (height // cell + 1, width // cell + 1, 3))
        total += coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
    return (total / 3).astype(np.uint8)


@pytest.mark.parametrize("kind", INJECTION_KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_nothing_changes_outside_the_mask_and_enough_inside(
    kind: InjectionKind, size: tuple[int, int]
) -> None:
    pixels = textured(*size)
    before = pixels.copy()
    made = inject(pixels, f"image-{size}", InjectionConfig(kinds=(kind,)))
    changed = (made.pixels != pixels).any(axis=-1)
    mask = made.label_map > 0
    assert np.array_equal(pixels, before), "the clean image is left as it was"
    assert made.pixels.shape == pixels.shape and made.pixels.dtype == np.uint8
    assert not changed[~mask].any()
    assert changed[mask].mean() >= 0.3
    assert set(np.unique(made.label_map)) == {0, OPERATIONS[kind].label_class}


def test_an_image_gets_the_same_artifact_in_whatever_order_and_another_one_with_another_seed() -> None:
    one, other = textured(80, 80, 1), textured(80, 80, 2)
    config = InjectionConfig()
    first = [inject(one, "a", config), inject(other, "b", config)]
    again = [inject(other, "b", config), inject(one, "a", config)][::-1]
    for made, repeated in zip(first, again, strict=True):
        assert np.array_equal(made.pixels, repeated.pixels)
        assert np.array_equal(made.label_map, repeated.label_map)
        assert made.parameters == repeated.parameters
    reseeded = inject(one, "a", InjectionConfig(seed=1))
    assert not np.array_equal(reseeded.pixels, first[0].pixels)


def test_every_kind_is_drawn() -> None:
    config = InjectionConfig()
    kinds = {inject(textured(64, 64), str(name), config).parameters["kind"] for name in range(80)}
    assert kinds == set(INJECTION_KINDS)


@pytest.mark.parametrize("kind", ["warp", "double", "fuse", "tear", "smooth"])
def test_an_artifact_that_cannot_be_seen_is_refused_and_not_labelled(kind: InjectionKind) -> None:
    flat = np.full((64, 64, 3), 128, dtype=np.uint8)
    with pytest.raises(InputRefused, match=f"no '{kind}' could be seen in this image at 10 places"):
        inject(flat, "flat", InjectionConfig(kinds=(kind,)))


def test_an_image_too_small_is_refused_with_its_size() -> None:
    with pytest.raises(InputRefused, match="an image of 20×64 pixels is too small"):
        inject(textured(20, 64), "small", InjectionConfig())


def test_regions_keep_to_their_limits() -> None:
    config, rng = InjectionConfig(least=0.2, most=0.5), np.random.default_rng(0)
    for _ in range(50):
        rows, columns = np.nonzero(smooth_region(100, 200, config, rng))
        assert 10 <= np.ptp(rows) + 1 <= 50
        assert 10 <= np.ptp(columns) + 1 <= 50


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"least": 0.5, "most": 0.2}, "must not be above"),
        ({"kinds": ("warp", "warp")}, "repeat"),
        ({"kinds": ()}, "at least 1"),
        ({"kinds": ("melt",)}, "melt"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        InjectionConfig(**settings)
