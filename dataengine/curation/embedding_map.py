"""Places of images on a plane by their features, for the map of the Curate desk."""

from collections.abc import Callable
from itertools import count

import numpy as np
from numpy.typing import NDArray

SIDE = 65_535
COMPONENTS = 50
FEWEST = 12
"""Below this number of images neighbourhoods mean nothing; principal components place them."""
NEIGHBOURS = 30
SMALL = 10_000
"""Below this number Barnes and Hut's tree is faster than interpolation."""
EARLY, LATE, EVERY = 250, 500, 10
"""Iterations with and without exaggeration, and between two reports."""
MARGIN = 0.02


def project(
    vectors: NDArray[np.float32], seed: int = 0, report: Callable[[int, int], None] = lambda done, total: None
) -> NDArray[np.uint16]:
    """Places uint16 N×2 of features float32 N×D: t-SNE (van der Maaten and Hinton 2008) of their first 50
    principal components, by openTSNE's interpolation (Linderman et al. 2019). The same features give the same
    places. `report` is called with the iterations done and in all."""
    components = principal_components(vectors, COMPONENTS)
    if len(vectors) < FEWEST or not components.any():
        return _on_the_map(components[:, :2])
    from openTSNE import TSNE

    done = count(EVERY, EVERY)
    few, small = len(vectors) < 3 * NEIGHBOURS, len(vectors) < SMALL
    embedding = TSNE(
        perplexity=(len(vectors) - 1) / 3 if few else NEIGHBOURS,
        initialization="pca",
        negative_gradient_method="bh" if small else "fft",
        neighbors="exact" if len(vectors) < 1_000 else "approx",
        random_state=seed,
        early_exaggeration_iter=EARLY,
        n_iter=LATE,
        callbacks=lambda iteration, error, embedding: report(next(done), EARLY + LATE),
        callbacks_every_iters=EVERY,
        n_jobs=1 if small else -1,  # threads that wait for each other cost a small map more than they bring
    ).fit(components)
    return _on_the_map(np.asarray(embedding))


def principal_components(vectors: NDArray[np.float32], number: int) -> NDArray[np.float32]:
    """The first principal components, float32 N×`number`; zeros where there are fewer."""
    values = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(values.T @ values)
    found = values @ axes[:, ::-1][:, :number]
    return np.pad(found, ((0, 0), (0, max(0, number - found.shape[1]))))


def _on_the_map(places: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Places scaled alike in both directions into the map, with a margin."""
    low, high = places.min(axis=0), places.max(axis=0)
    span = float((high - low).max()) or 1.0
    centre = (places - (low + high) / 2) / span * (1 - 2 * MARGIN) + 0.5
    return np.rint(centre * SIDE).astype(np.uint16)
