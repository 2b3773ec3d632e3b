"""What the training-free bench computes: thresholds from validation, balanced sets, KID by folds."""

import numpy as np
import pytest
import torch

from tests.bench import trainingfree
from tests.bench.steered import FOLDS, asked, kids
from tests.bench.trainingfree import accuracy, pixel_ap, threshold_of


def test_the_threshold_is_that_of_the_best_balanced_accuracy() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.25, 0.7, 0.8, 0.9])
    flawed = np.array([False, False, False, True, True, True, True])
    level, right = threshold_of(scores, flawed)
    assert level == 0.7 and right == pytest.approx((3 / 4 + 1) / 2)


def test_accuracy_stands_on_as_many_flawed_as_clean_images() -> None:
    known = np.array([0.2, 0.8]), np.array([False, True])
    flawed = np.array([True, False, False, False, False])
    found = accuracy("a", known, (np.array([0.9, 0.1, 0.9, 0.9, 0.9]), flawed), "note")
    assert (found.value, found.n) == (1.0, 2) and "0.8" in found.note
    none = accuracy("a", known, (np.zeros(3), np.zeros(3, dtype=bool)), "note")
    assert none.value == "not measured"


def test_pixel_ap_is_one_for_the_truth_itself() -> None:
    truth = np.zeros((2, 4, 4), np.uint8)
    truth[:, :2] = 255
    assert pixel_ap(truth, truth) == 1 and pixel_ap(255 - truth, truth) == 0.5
    assert pixel_ap(truth, np.zeros_like(truth)) == 0


def test_kid_compares_fold_with_fold() -> None:
    rng = torch.Generator().manual_seed(0)
    same, other = (torch.randn(20 * FOLDS, 4, generator=rng) + shift for shift in (0, 2))
    base = torch.randn(20 * FOLDS, 4, generator=rng)
    near, far = kids(base, same), kids(base, other)
    assert near.shape == (FOLDS,) and abs(near.mean()) < far.mean() / 5


def test_rows_share_their_prompts() -> None:
    assert [one.text for one in asked("validation", 20)] == [one.text for one in asked("validation", 20)]
    assert len(asked("evaluation", 500)) == 500
    assert not {one.text for one in asked("validation", 50)} & {one.text for one in asked("evaluation", 50)}
    assert trainingfree.NONE[1] == "evaluation"
