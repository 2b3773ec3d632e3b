import numpy as np
import pytest

from dataengine.curation.evidence import category_evidence, rank_test
from dataengine.errors import InputRefused


def survey(rng: np.random.Generator, count: int = 40) -> dict[tuple[str, str], list[float]]:
    """Hands break with both generators, faces with the second alone."""
    broken = {("hand", "a"), ("hand", "b"), ("face", "b")}
    return {
        (category, generator): rng.beta(
            *((4, 3) if (category, generator) in broken else (2, 6)), count
        ).tolist()
        for category in ("hand", "face", "tree", "house", "mug")
        for generator in ("a", "b")
    }


def test_the_rank_test_by_hand() -> None:
    high, low = np.array([3.0, 4.0, 5.0]), np.array([1.0, 2.0, 3.0])
    effect, p = rank_test(high, low)
    assert effect == pytest.approx((8 + 0.5) / 9 * 2 - 1) and p < 0.1
    assert rank_test(low, high)[0] == pytest.approx(-effect)


def test_what_breaks_is_found_with_the_generator_to_blame() -> None:
    rows = category_evidence(survey(np.random.default_rng(0)))
    assert len(rows) == 15
    unusual = {(row.category, row.generator) for row in rows if row.q is not None and row.q < 0.01}
    assert {("hand", ""), ("hand", "a"), ("hand", "b"), ("face", "b")} <= unusual
    assert ("face", "a") not in unusual and not any(category == "tree" for category, _ in unusual)
    hand = next(row for row in rows if (row.category, row.generator) == ("hand", "a"))
    assert hand.z is not None and hand.z > 3 and hand.effect is not None and hand.effect > 0.5
    assert rows[0].effect == max(row.effect for row in rows if row.effect is not None)


def test_where_all_are_alike_little_is_called() -> None:
    called = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found = category_evidence({(name, "g"): rng.beta(2, 6, 30).tolist() for name in "abcdefg"})
        called += any(row.q is not None and row.q < 0.05 for row in found)
    assert called <= 6


def test_too_few_images_are_only_counted() -> None:
    rows = category_evidence({("hand", "g"): [0.9] * 5, ("tree", "g"): [0.1] * 30, ("mug", "g"): [0.2] * 30})
    hand = next(row for row in rows if row.category == "hand")
    assert (hand.images, hand.median, hand.z, hand.effect, hand.p, hand.q) == (5, 0.9, None, None, None, None)
    assert category_evidence({}) == [] and category_evidence({("hand", "g"): []}) == []
    with pytest.raises(InputRefused):
        category_evidence({("hand", "g"): [float("nan")]})


def test_a_category_like_the_others_stands_before_those_below_them() -> None:
    same = [0.1, 0.5, 0.9] * 10
    rows = category_evidence({("cup", "g"): same, ("mug", "g"): same, ("few", "g"): [0.9]})
    assert [(row.category, row.effect) for row in rows] == [("cup", 0.0), ("mug", 0.0), ("few", None)]
