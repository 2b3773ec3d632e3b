"""Samples: pixels and targets of every kind, facts that agree with them."""

import numpy as np

from pipelines.detectors.dataset import StoredSamples
from pipelines.runtime.images import read_pixels
from tests.pipelines.conftest import Played


def test_facts_agree_with_the_decoded_examples(played: Played) -> None:
    items = played.context.workspace.snapshots.read(played.results["publish"]["snapshot"])
    samples = StoredSamples(played.context.workspace, items)
    assert len(samples) == len(items)
    kinds = set()
    for index, item in enumerate(items):
        sample, facts = samples.sample(index), samples.facts(index)
        kinds.add(item.kind)
        assert (facts.kind, facts.category) == (sample.kind, sample.category) == (item.kind, item.category)
        assert facts.positive == bool((sample.target >= 0.5).any())
        assert facts.classes == sample.facts().classes
        assert sample.target.shape == sample.image.shape[:2] and sample.target.dtype == np.float32
        assert (sample.weight, sample.max_confidence) == (item.weight, item.max_confidence)
    assert kinds == {"true", "pseudo", "real"}


def test_reads_the_images_own_pixels(played: Played) -> None:
    items = played.context.workspace.snapshots.read(played.results["publish"]["snapshot"])
    with played.context.workspace.catalog(read_only=True) as catalog:
        image = catalog.images.get(items[0].image_id)
    samples = StoredSamples(played.context.workspace, items)
    assert np.array_equal(samples.sample(0).image, read_pixels(played.context.workspace, image))
