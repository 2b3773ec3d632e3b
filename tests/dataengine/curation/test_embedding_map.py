"""Places on the map: within bounds, the same each time, neighbours stay neighbours."""

import numpy as np
import pytest

from dataengine.curation.embedding_map import FEWEST, SIDE, principal_components, project


def clusters(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four clusters far from each other in 30 dimensions, and which row is of which."""
    random = np.random.default_rng(seed)
    centres, of = random.normal(0, 5, (4, 30)), np.arange(count) % 4
    return (centres[of] + random.normal(0, 0.5, (count, 30))).astype(np.float32), of


def share_of_same_cluster(places: np.ndarray, of: np.ndarray) -> float:
    far = np.linalg.norm(places[:, None].astype(float) - places[None], axis=2)
    np.fill_diagonal(far, np.inf)
    return float((of[far.argmin(axis=1)] == of).mean())


def test_principal_components_are_those_of_the_singular_values() -> None:
    vectors, _ = clusters(40)
    found = principal_components(vectors, 3)
    values = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
    assert np.linalg.norm(found, axis=0) == pytest.approx(values[:3], rel=1e-4)
    assert principal_components(vectors[:, :2], 5).shape == (40, 5)


@pytest.mark.parametrize("count", [1, 2, FEWEST - 1])
def test_a_few_images_are_placed_without_neighbourhoods(count: int) -> None:
    vectors, of = clusters(count)
    places = project(vectors)
    assert places.shape == (count, 2) and places.dtype == np.uint16 and places.max() < SIDE
    assert (places == project(vectors)).all()
    assert count < 8 or share_of_same_cluster(places, of) > 0.8


@pytest.mark.parametrize("count", [5, 40])
def test_equal_images_lie_at_one_place(count: int) -> None:
    places = project(np.ones((count, 30), np.float32))
    assert (places == places[0]).all() and places[0].tolist() == pytest.approx([SIDE / 2, SIDE / 2], abs=1)


def test_many_images_keep_their_neighbours() -> None:
    pytest.importorskip("openTSNE", reason="make setup installs openTSNE")
    vectors, of = clusters(120)
    told: list[tuple[int, int]] = []
    places = project(vectors, report=lambda done, total: told.append((done, total)))
    assert told == [(10 * step, 750) for step in range(1, 76)]
    assert share_of_same_cluster(places, of) > 0.95
    assert 0 < places.min() < 0.1 * SIDE and 0.9 * SIDE < places.max() < SIDE
