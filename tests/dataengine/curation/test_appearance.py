"""Appearance: what the two histograms hold, and that like images are found by them."""

import numpy as np
import pytest

from dataengine.clinic.world import Drawing, stream
from dataengine.curation.appearance import COLOURS, LENGTH, TOP, appearance, centred, shrink_to_grid
from dataengine.errors import InputRefused


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (80, 50)) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (*size, 3)).copy()


def test_a_plain_image_is_one_colour_and_no_edge() -> None:
    found = appearance(plain((255, 0, 130)))
    assert found.shape == (LENGTH,) == (192,) and found.dtype == np.int8
    assert np.flatnonzero(found).tolist() == [3 * 16 + 0 * 4 + 2] and found.max() == TOP


@pytest.mark.parametrize(("axis", "direction"), [(1, 0), (0, 4)])
def test_stripes_lie_in_one_direction(axis: int, direction: int) -> None:
    """A gradient to the right has angle 0; one downwards 90°, which is the fifth of eight directions."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    image = np.repeat((np.tile(ramp, (64, 1)) if axis else np.tile(ramp[:, None], (1, 64)))[..., None], 3, 2)
    edges = appearance(image)[COLOURS:].reshape(16, 8)
    assert (edges[:, direction] > 0).all() and not np.delete(edges, direction, axis=1).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (63, 65), (64, 64), (700, 3)])
def test_any_size_has_its_mean_colours(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    small = shrink_to_grid(image)
    assert small.shape == (64, 64, 3) and 0 <= small.min() <= small.max() <= 255
    assert appearance(image).max() <= TOP
    if size == (64, 64):
        assert (small == image).all()


def test_blocks_are_averaged() -> None:
    image = np.zeros((128, 128, 3), np.uint8)
    image[::2] = 200
    assert (shrink_to_grid(image) == 100).all()


@pytest.mark.parametrize(
    "image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((0, 5, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(InputRefused, match="H×W×3"):
        appearance(image)


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return [stream("validation")[index] for index in range(80)]


def test_similarity_is_one_for_the_same_image_and_nothing_on_average(drawings: list[Drawing]) -> None:
    vectors = np.stack([appearance(one.image) for one in drawings])
    rows = centred(np.concatenate([vectors, vectors[:1]]))
    table = rows @ rows.T
    assert table[0, -1] == pytest.approx(1, abs=1e-5)
    others = table[~np.eye(len(table), dtype=bool)]
    assert abs(others.mean()) < 0.05 and np.percentile(others, 99) < 0.9
    assert (
        centred(vectors[:1]).shape == (1, LENGTH) and np.isfinite(centred(np.zeros((3, 192), np.int8))).all()
    )


def test_the_nearest_drawings_mostly_show_the_same_thing(drawings: list[Drawing]) -> None:
    rows = centred(np.stack([appearance(one.image) for one in drawings]))
    table = rows @ rows.T
    np.fill_diagonal(table, -1)
    names = np.array([one.category for one in drawings])
    nearest = table.argmax(axis=1)
    assert (names[nearest] == names).mean() > 0.8  # by chance 1 in 7; 0.98 among 600
