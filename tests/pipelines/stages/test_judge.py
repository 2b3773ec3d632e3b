"""Judge: the same prompts and seeds by both generators, and what changed."""

import numpy as np
import pytest

from dataengine.records.images import JUDGE
from pipelines.detectors.predict import predict
from pipelines.runtime.round_data import prompts_of
from pipelines.stages.judge import judge, pairs_of
from storage import tables
from storage.queries.categories import histograms
from tests.pipelines.conftest import Played


def test_pairs_share_prompt_and_seed(played: Played) -> None:
    pairs = pairs_of(played.context, played.round_id)
    assert len(pairs) == played.results["judge"]["pairs"] > 0
    for pair in pairs:
        assert (pair.before.prompt, pair.before.seed) == (pair.after.prompt, pair.after.seed)
        assert pair.before.generator_id == "squares" != pair.after.generator_id


def test_judged_images_have_the_category_of_their_prompt_and_count_among_the_hard(played: Played) -> None:
    """desks 3.13: they had "No category" although the prompt says tree."""
    pairs = pairs_of(played.context, played.round_id)
    written = {one.text: one.category for one in prompts_of(played.context, played.round_id, JUDGE)}
    for image in [image for pair in pairs for image in (pair.before, pair.after)]:
        assert image.category == written[image.prompt] is not None
    detector = played.results["treat"]["detector"]
    with played.context.workspace.catalog(read_only=True) as catalog:
        counted = histograms(catalog, detector, [tables.images.c.purpose == JUDGE])
    assert counted.keys() == set(written.values())
    assert sum(sum(one.counts.values()) for one in counted.values()) == 2 * len(pairs)


def test_the_ratio_is_that_of_the_means(played: Played) -> None:
    result, pairs = played.results["judge"], pairs_of(played.context, played.round_id)
    detector = played.results["treat"]["detector"]
    before = predict(played.context, detector, [pair.before for pair in pairs], 8)
    after = predict(played.context, detector, [pair.after for pair in pairs], 8)
    expected = np.mean([each.mean for each in after]) / np.mean([each.mean for each in before])
    found = result["mean_confidence"]
    assert found["ratio"] == pytest.approx(expected)
    assert found["interval"][0] <= found["ratio"] <= found["interval"][1] < 1
    assert result["frequency"]["after"] < result["frequency"]["before"]


def test_reports_what_treatment_cost(played: Played) -> None:
    result = played.results["judge"]
    assert result["attributes"]["drop"] == pytest.approx(0.0)
    assert result["detail"]["ratio"] > 0 and result["diversity"]["ratio"] > 0


def test_judging_again_gives_the_same(played: Played) -> None:
    assert judge(played.context, played.round_id) == played.results["judge"]
