from collections import Counter
from typing import Any

import numpy as np
import pytest

from dataengine.curation.config import MiningConfig
from dataengine.curation.mining import (
    MiningCandidate,
    choose_greedily,
    choose_images,
    scaled_ranks,
    split_budget,
    thumbnail_features,
    without_near_duplicates,
)


def candidate(name: str, category: str = "hand", confidence: float = 0.9, **more: Any) -> MiningCandidate:
    return MiningCandidate(
        image_id=name, category=category, confidence=confidence, **({"uncertainty": 0.0} | more)
    )


def many(category: str, count: int, confidence: float = 0.9) -> list[MiningCandidate]:
    return [candidate(f"{category}-{i:03d}", category, confidence) for i in range(count)]


PLAIN = MiningConfig(budget=4, explore=0, uncertainty=0, diversity=0)


def test_the_budget_is_kept_and_categories_share_it() -> None:
    choices = choose_images(
        many("hand", 50) + many("face", 50) + many("sign", 3), MiningConfig(budget=33, explore=0)
    )
    assert Counter(found.category for found in choices) == {"hand": 15, "face": 15, "sign": 3}
    assert len({found.image_id for found in choices}) == 33


def test_only_confident_images_are_hard_cases() -> None:
    choices = choose_images(many("hand", 3, 0.5) + many("tree", 9, 0.49), PLAIN)
    assert [found.category for found in choices] == ["hand"] * 3


def test_the_most_confident_and_most_undecided_come_first() -> None:
    sure = [candidate(str(i), confidence=0.5 + i / 100) for i in range(10)]
    assert [found.image_id for found in choose_images(sure, PLAIN)] == ["9", "8", "7", "6"]
    unsure = [candidate(str(i), uncertainty=i / 100) for i in range(10)]
    config = PLAIN.model_copy(update={"uncertainty": 1.0})
    assert [found.image_id for found in choose_images(unsure, config)] == ["9", "8", "7", "6"]


@pytest.mark.parametrize("signal", ["uncertainty", "variance", "disagreement"])
def test_each_signal_counts_by_its_weight_alone(signal: str) -> None:
    marks: list[dict[str, Any]] = [{signal: (i * 7 % 10) / 1000} for i in range(10)]
    found = [candidate(str(i), **mark) for i, mark in enumerate(marks)]
    best = sorted(found, key=lambda each: -getattr(each, signal))[:4]
    config = PLAIN.model_copy(update={signal: 0.1})
    assert [each.image_id for each in choose_images(found, config)] == [each.image_id for each in best]
    assert [each.image_id for each in choose_images(found, PLAIN)] == ["0", "1", "2", "3"]


def test_of_near_duplicates_the_more_valuable_one_stays() -> None:
    look = np.linspace(0, 1, 12, dtype=np.float32)
    found = [
        candidate("a", confidence=0.6, thumbnail=look),
        candidate("b", confidence=0.9, thumbnail=look + 0.001),
        candidate("c", confidence=0.5, thumbnail=look[::-1].copy()),
        candidate("d", confidence=0.5),
    ]
    assert [each.image_id for each in without_near_duplicates(found, 0.004)] == ["b", "c", "d"]
    assert len(without_near_duplicates(found, 0.0)) == 4
    assert {each.image_id for each in choose_images(found, PLAIN)} == {"b", "c", "d"}


def test_the_budget_follows_the_shares() -> None:
    available = {"a": 100, "b": 100, "c": 100}
    assert split_budget(available, 40, {"a": 2.0}) == {"a": 20, "b": 10, "c": 10}
    assert split_budget(available, 40, {"a": 0.0}) == {"a": 0, "b": 20, "c": 20}
    assert split_budget({"a": 100}, 40, {"a": 0.0}) == {"a": 0}
    choices = choose_images(
        many("hand", 50) + many("face", 50), PLAIN.model_copy(update={"budget": 30, "shares": {"hand": 2.0}})
    )
    assert Counter(found.category for found in choices) == {"hand": 20, "face": 10}


def test_diversity_takes_one_of_each_look_before_repeating() -> None:
    looks = np.eye(3, dtype=np.float32)
    found = [
        MiningCandidate(
            image_id=f"{look}{copy}",
            category="hand",
            confidence=0.9 - 0.1 * look,
            uncertainty=0.0,
            features=looks[look] + 0.001 * copy,
        )
        for look in range(3)
        for copy in range(5)
    ]
    config = MiningConfig(budget=3, explore=0, uncertainty=0, diversity=1)
    assert {each.image_id[0] for each in choose_greedily(found, 3, config)} == {"0", "1", "2"}
    without = config.model_copy(update={"diversity": 0.0})
    assert {each.image_id[0] for each in choose_greedily(found, 3, without)} == {"0"}


def test_a_share_looks_where_nothing_was_found() -> None:
    candidates = many("hand", 100) + many("hand-quiet", 100, 0.1)
    config = MiningConfig(budget=20, explore=0.2, seed=1)
    choices = choose_images(candidates, config)
    quiet = [found for found in choices if found.category == "hand-quiet"]
    assert len(choices) == 20 and len(quiet) == 4
    assert all("random" in found.reason for found in quiet)
    other = choose_images(candidates, config.model_copy(update={"seed": 2}))
    assert {found.image_id for found in other} != {found.image_id for found in choices}
    assert choose_images(list(reversed(candidates)), config) == choices


def test_any_first_part_of_the_list_is_balanced() -> None:
    choices = choose_images(many("hand", 30) + many("face", 30), MiningConfig(budget=20, explore=0))
    for length in range(2, 21, 2):
        assert Counter(found.category for found in choices[:length]) == {
            "hand": length // 2,
            "face": length // 2,
        }
    priorities = [found.priority for found in choices]
    assert priorities[0] == 1 and priorities[-1] > 0 and all(np.diff(priorities) < 0)


def test_reasons_say_what_was_seen() -> None:
    (choice,) = choose_images([candidate("a", confidence=0.87, uncertainty=0.31)], PLAIN)
    assert choice.reason == "hand: confidence 0.87, uncertainty 0.31"
    assert choose_images([], PLAIN) == []


@pytest.mark.parametrize(
    ("available", "budget", "shares"),
    [
        ({"a": 10, "b": 10}, 5, {"a": 3, "b": 2}),
        ({"a": 1, "b": 10, "c": 10}, 9, {"a": 1, "b": 4, "c": 4}),
        ({"a": 2, "b": 1}, 9, {"a": 2, "b": 1}),
        ({}, 3, {}),
    ],
)
def test_shares_are_as_even_as_can_be(available: dict[str, int], budget: int, shares: dict[str, int]) -> None:
    assert split_budget(available, budget) == shares


def test_ranks_by_hand() -> None:
    assert scaled_ranks(np.array([3.0, 1.0, 2.0, 1.0, np.inf])).tolist() == [0.75, 0.0, 0.5, 0.0, 1.0]
    assert scaled_ranks(np.array([5.0])).tolist() == [0.0]


def test_thumbnails_are_mean_colours_of_the_grid() -> None:
    images = np.zeros((2, 20, 37, 3), np.uint8)
    images[1, :, :, 0] = 255
    images[0, :3, :5] = 255
    features = thumbnail_features(images)
    assert features.shape == (2, 192) and features.dtype == np.float32
    assert features[1].reshape(8, 8, 3)[..., 0].min() == 1 and features[1].reshape(8, 8, 3)[..., 1].max() == 0
    assert features[0].reshape(8, 8, 3)[0, 0].tolist() == [1, 1, 1]
    assert features[0].reshape(8, 8, 3)[4:].max() == 0


def test_thumbnails_of_pictures_smaller_than_the_grid_are_numbers() -> None:
    images = np.arange(2 * 3 * 5 * 3, dtype=np.uint8).reshape(2, 3, 5, 3)
    found = thumbnail_features(images).reshape(2, 8, 8, 3)
    assert np.isfinite(found).all()
    assert found[1, 0, 0].tolist() == pytest.approx((images[1, 0, 0] / 255).tolist())
    assert found[1, 7, 7].tolist() == pytest.approx((images[1, 2, 4] / 255).tolist())


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_are_those_of_comparing_each_with_each(seed: int) -> None:
    rng = np.random.default_rng(seed)
    looks = rng.random((8, 12)).astype(np.float32)[rng.integers(0, 8, 60)]
    looks += rng.normal(0, 0.03, looks.shape).astype(np.float32)
    found = [candidate(f"{i:02d}", confidence=float(rng.random()), thumbnail=looks[i]) for i in range(60)]
    kept: list[MiningCandidate] = []
    for each in sorted(found, key=lambda one: -one.confidence):
        if all(np.abs(each.thumbnail - other.thumbnail).mean() >= 0.03 for other in kept):
            kept.append(each)
    assert 8 < len(kept) < 60
    assert without_near_duplicates(found, 0.03) == sorted(kept, key=lambda one: one.image_id)


def test_hard_cases_begin_at_the_threshold_and_at_one_half_without_one() -> None:
    candidates = [candidate(f"i{n}", confidence=n / 10) for n in range(1, 10)]
    for threshold, first in ((None, 5), (0.25, 3), (0.85, 9)):
        config = PLAIN.model_copy(update={"budget": 9, "threshold": threshold})
        assert {one.image_id for one in choose_images(candidates, config)} == {
            f"i{n}" for n in range(first, 10)
        }
