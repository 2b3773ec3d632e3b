import numpy as np
import pytest

from dataengine.curation.config import HardCategoryConfig
from dataengine.curation.hard_categories import (
    CategoryVerdict,
    ConfidenceCounts,
    hard_categories,
    judge,
    robust_z,
    scaled_to,
)
from dataengine.errors import InputRefused


def confidences(alarm: float, images: int, seed: int) -> np.ndarray:
    """Highest confidences of a category where that share of images draws an alarm."""
    rng = np.random.default_rng(seed)
    loud = rng.random(images) < alarm
    return np.where(loud, rng.beta(8, 2, images), rng.beta(1, 12, images))


CLINIC = {"hand": 0.9, "face": 0.65, "sign": 0.6, "animal": 0.3, "mug": 0.2, "tree": 0.08, "house": 0.04}


def world(alarms: dict[str, float], images: int, seed: int) -> dict[str, np.ndarray]:
    return {
        category: confidences(alarm, images, 100 * seed + place)
        for place, (category, alarm) in enumerate(alarms.items())
    }


def hard(verdicts: list[CategoryVerdict]) -> set[str]:
    return {found.category for found in verdicts if found.verdict == "hard"}


@pytest.mark.parametrize("seed", range(8))
def test_hands_faces_and_words_are_flagged_and_nothing_easy(seed: int) -> None:
    assert hard(hard_categories(world(CLINIC, 120, seed))) == {"hand", "face", "sign"}


@pytest.mark.parametrize("alarm", [0.02, 0.15, 0.5, 0.95])
def test_where_all_are_alike_none_is_flagged(alarm: float) -> None:
    alike = dict.fromkeys("abcdefg", alarm)
    flagged = [hard(hard_categories(world(alike, 60, seed))) for seed in range(20)]
    assert sum(map(bool, flagged)) <= 2


@pytest.mark.parametrize("threshold", [0.07, 0.25, 0.45])
@pytest.mark.parametrize("alarms", [CLINIC, dict.fromkeys("abcdefg", 0.5)])
def test_a_quiet_detector_finds_the_same_categories_hard(threshold: float, alarms: dict[str, float]) -> None:
    loud = world(alarms, 120, seed=3)
    quiet = {category: threshold / 0.5 * values for category, values in loud.items()}
    config = HardCategoryConfig()
    found = hard(hard_categories(quiet, scaled_to(config, threshold)))
    assert found == hard(hard_categories(loud, config))
    if alarms is CLINIC and threshold < 0.25:
        assert hard(hard_categories(quiet, config)) == set(), "the unscaled floor calls nothing hard"


def test_scaled_settings_stay_settings() -> None:
    config = HardCategoryConfig(floor=0.8, margin=0.1, level=0.01)
    assert scaled_to(config, 0.5) == config
    loud = scaled_to(config, 0.9)
    assert (loud.floor, loud.margin, loud.level) == (1.0, pytest.approx(0.18), 0.01)


def test_a_correction_judges_more_strictly_and_is_off_by_default() -> None:
    strict = {name: HardCategoryConfig(correction=name) for name in ("none", "holm", "benjamini-hochberg")}
    calls = dict.fromkeys(strict, 0)
    for seed in range(12):
        values = world(CLINIC, 30, seed)
        found = {name: hard_categories(values, config) for name, config in strict.items()}
        assert found["none"] == hard_categories(values)
        assert hard(found["holm"]) <= hard(found["benjamini-hochberg"]) <= hard(found["none"])
        for name, verdicts in found.items():
            calls[name] += len(hard(verdicts))
            assert all(v.adjusted_p >= v.p for v in verdicts if v.p is not None and v.adjusted_p is not None)
    assert calls["holm"] < calls["none"]
    assert HardCategoryConfig.model_validate({"minimum": 12}).correction == "none", "as stored recipes say"


def test_the_robust_z_of_a_hard_category_stands_out_although_others_are_hard_too() -> None:
    means = {"hand": 0.8, "face": 0.75, "mug": 0.2, "tree": 0.22, "car": 0.18, "sign": 0.21, "cat": 0.19}
    found = robust_z(means)
    assert found["hand"] > 10 and found["face"] > 10 and abs(found["mug"]) < 1
    assert robust_z({"a": 0.1, "b": 0.9}) == {}
    assert max(robust_z({"a": 0.5, "b": 0.505, "c": 0.5}).values()) < 0.6


def test_counted_confidences_are_judged_like_single_ones() -> None:
    values = world(CLINIC, 120, 7)
    counted = {
        name: ConfidenceCounts.of_histogram(
            dict(
                zip(
                    *map(np.ndarray.tolist, np.unique((found * 1000).astype(int), return_counts=True)),
                    strict=True,
                )
            ),
            float(found.mean()),
        )
        for name, found in values.items()
    }
    assert judge(counted) == hard_categories(values)


def test_where_all_are_easy_the_least_easy_is_still_easy() -> None:
    easy = {"a": 0.0, "b": 0.01, "c": 0.02, "d": 0.12}
    assert hard(hard_categories(world(easy, 2000, 0))) == set()
    bold = HardCategoryConfig(floor=0.0, margin=0.0)
    assert hard(hard_categories(world(easy, 2000, 0), bold)) >= {"d"}


def test_one_hard_category_among_few() -> None:
    assert hard(hard_categories(world({"hand": 0.8, "mug": 0.1, "tree": 0.1}, 40, 1))) == {"hand"}


def test_few_samples_get_no_verdict_and_do_not_disturb_the_others() -> None:
    full = world(CLINIC, 80, 3)
    few = full | {"rare": np.ones(5)}
    verdicts = {found.category: found for found in hard_categories(few)}
    assert verdicts["rare"].verdict == "too few"
    assert verdicts["rare"].limit is None and verdicts["rare"].statistic == 1
    assert hard(hard_categories(few)) == hard(hard_categories(full))


def test_a_category_needs_others_to_be_compared_with() -> None:
    alone = hard_categories(world({"hand": 0.9, "tree": 0.0}, 100, 0))
    assert {found.verdict for found in alone} == {"too few"}
    assert hard_categories({}) == []


def test_fewer_images_need_a_larger_excess() -> None:
    def excess(images: int) -> float:
        found = {each.category: each for each in hard_categories(world(CLINIC, images, 5))}["mug"]
        assert found.limit is not None and found.reference is not None
        return found.limit - found.reference

    assert excess(25) > excess(100) > excess(2000) > 0.05


def test_statistic_and_limit_explain_the_verdict() -> None:
    for found in hard_categories(world(CLINIC, 80, 2)):
        assert found.limit is not None and found.reference is not None
        assert (found.statistic > found.limit) == (found.verdict == "hard")
        assert found.images == 80
    statistics = [found.statistic for found in hard_categories(world(CLINIC, 80, 2))]
    assert statistics == sorted(statistics, reverse=True)


def test_the_same_numbers_give_the_same_verdicts_in_any_order() -> None:
    given = world(CLINIC, 50, 4)
    backwards = dict(reversed(list(given.items())))
    assert hard_categories(given) == hard_categories(backwards)


def test_what_is_no_confidence_is_refused() -> None:
    with pytest.raises(InputRefused, match="'hand'"):
        hard_categories({"hand": [0.2, float("nan")]})
    with pytest.raises(InputRefused, match="'hand'"):
        hard_categories({"hand": [1.2]})
