"""Features: compact vectors that keep angles, computed once."""

import numpy as np
import pytest

from dataengine.errors import ConfigRefused
from pipelines.jobs.compute_embeddings import compact, compute_features
from tests.pipelines.conftest import Played


def test_short_vectors_keep_angles() -> None:
    chance = np.random.default_rng(0)
    long = chance.normal(size=(3, 512))
    long[1] = long[0] + 0.1 * long[1]
    short = compact(long).astype(float)
    unit = short / np.linalg.norm(short, axis=1, keepdims=True)
    assert compact(long).shape == (3, 96) and compact(long).dtype == np.int8
    assert unit[0] @ unit[1] > 0.97 and abs(unit[0] @ unit[2]) < 0.35
    assert not compact(np.zeros((1, 5))).any()
    with pytest.raises(ConfigRefused):
        compact(np.array([[np.nan]]))


def test_every_image_has_a_vector_once(played: Played) -> None:
    first = compute_features(played.context)
    with played.context.workspace.catalog(read_only=True) as catalog:
        assert first["images"] == catalog.images.count(status="active") > 0
        assert catalog.features.missing(first["detector"]) == []
    assert compute_features(played.context)["images"] == 0
