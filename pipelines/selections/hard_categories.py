"""Hard categories of a selection of images, from counts of their confidence (DiffDoctor, Sec. 3.2)."""

from collections.abc import Mapping
from functools import lru_cache

from dataengine.curation.config import HardCategoryConfig
from dataengine.curation.hard_categories import CategoryVerdict, ConfidenceCounts, judge
from storage.queries.categories import Histogram


def judge_histograms(found: Mapping[str, Histogram], config: HardCategoryConfig) -> list[CategoryVerdict]:
    """The verdict on every category, as the stage `write_prompts` gives it on the same images."""
    counted = {
        category: ConfidenceCounts.of_histogram(one.counts, one.mean) for category, one in found.items()
    }
    return list(_judged(tuple(sorted(counted.items())), config))


@lru_cache(maxsize=64)
def _judged(
    counted: tuple[tuple[str, ConfidenceCounts], ...], config: HardCategoryConfig
) -> tuple[CategoryVerdict, ...]:
    return tuple(judge(dict(counted), config))
