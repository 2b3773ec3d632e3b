import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dataengine.curation.agreement import coincidences, dice, iou, krippendorff_alpha, majority, pairwise
from dataengine.errors import MaskRefused

A = np.array([[1, 1, 0, 0]], np.uint8)
B = np.array([[0, 2, 2, 0]], np.uint8)
CLEAN = np.zeros((1, 4), np.uint8)


def test_overlap_by_hand() -> None:
    pairs = pairwise([A, B, CLEAN])
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    assert pairs[0].iou == pytest.approx(1 / 3) and pairs[0].dice == pytest.approx(1 / 2)
    assert pairs[1].iou == 0 and pairs[1].dice == 0
    both = pairwise([CLEAN, CLEAN])[0]
    assert both.iou == 1 and both.dice == 1
    assert pairwise([A]) == []


@given(arrays(np.bool_, (3, 3)), arrays(np.bool_, (3, 3)))
def test_dice_follows_from_iou(first: np.ndarray, second: np.ndarray) -> None:
    overlap = iou(first, second)
    assert dice(first, second) == pytest.approx(2 * overlap / (1 + overlap))
    assert iou(first, second) == iou(second, first)


def test_more_than_half_must_mark_a_pixel() -> None:
    assert majority([A, B]).tolist() == [[0, 1, 0, 0]]
    assert majority([A, A, B]).tolist() == [[1, 1, 0, 0]]
    assert majority([A, B, B]).tolist() == [[0, 2, 2, 0]]
    assert majority([CLEAN, CLEAN, A]).tolist() == CLEAN.tolist()
    assert majority([B]).tolist() == B.tolist()
    assert majority([A]).dtype == np.uint8


@given(st.lists(arrays(np.uint8, (2, 3), elements=st.integers(0, 3)), min_size=1, max_size=5))
def test_the_majority_invents_nothing(opinions: list[np.ndarray]) -> None:
    merged = majority(opinions)
    stacked = np.stack(opinions)
    assert ((merged > 0) == (2 * (stacked > 0).sum(0) > len(opinions))).all()
    assert ((stacked == merged).any(0) | (merged == 0)).all()


def test_other_sizes_and_no_opinions_are_refused() -> None:
    with pytest.raises(MaskRefused):
        pairwise([A, A.T])
    with pytest.raises(MaskRefused):
        majority([])


def test_alpha_of_krippendorffs_own_kind() -> None:
    first = np.array([[0, 1, 1, 0, 2, 2]], np.uint8)
    assert krippendorff_alpha(coincidences([first, first, first], 2)) == pytest.approx(1.0)
    noise = np.random.default_rng(0)
    maps = [noise.integers(0, 3, (200, 200)).astype(np.uint8) for _ in range(3)]
    chance = krippendorff_alpha(coincidences(maps, 2))
    assert chance is not None and abs(chance) < 0.01
    # Two coders, binary: Krippendorff 2011, section A, whose alpha is 0.095.
    meg = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0]], np.uint8)
    owen = np.array([[1, 1, 1, 0, 0, 1, 0, 0, 0, 0]], np.uint8)
    assert krippendorff_alpha(coincidences([meg, owen], 1)) == pytest.approx(0.095, abs=5e-4)
    clean = np.zeros((2, 2), np.uint8)
    assert krippendorff_alpha(coincidences([clean, clean], 1)) is None
