"""What the training-free bench computes: thresholds from validation, balanced sets, KID by folds."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.bench import choose_correction, self_refining, trainingfree
from tests.bench.detection_rows import accuracy, pixel_ap, pixel_precision_recall, threshold_of
from tests.bench.guided_sampling import FOLDS, ImageRow, kid_by_fold, prompts_of_row
from tests.bench.self_refining import gain, share_inside
from tests.bench.sensitivity import overlap, overlaps
from tests.bench.trainingfree_contrast import contrast_of, with_disc
from tests.bench.trainingfree_probe import RIDGES, chosen_ridge, fit_probe, one_hot


def test_the_threshold_is_that_of_the_best_balanced_accuracy() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.25, 0.7, 0.8, 0.9])
    flawed = np.array([False, False, False, True, True, True, True])
    level, right = threshold_of(scores, flawed)
    assert level == 0.7 and right == pytest.approx((3 / 4 + 1) / 2)


def test_accuracy_stands_on_as_many_flawed_as_clean_images() -> None:
    known = np.array([0.2, 0.8]), np.array([False, True])
    flawed = np.array([True, False, False, False, False])
    found = accuracy("a", known, (np.array([0.9, 0.1, 0.9, 0.9, 0.9]), flawed), "note")
    assert [each.id for each in found] == ["accuracy_a", "precision_a", "recall_a"]
    assert (found[0].value, found[0].n) == (1.0, 2) and "0.8" in found[0].note
    none = accuracy("a", known, (np.zeros(3), np.zeros(3, dtype=bool)), "note")
    assert [each.value for each in none] == ["not measured"]


def test_precision_counts_the_marked_and_recall_the_flawed() -> None:
    known = np.array([0.2, 0.8]), np.array([False, True])
    flawed = np.array([True, True, True, True, False, False, False, False])
    scores = np.array([0.9, 0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1])
    found = accuracy("a", known, (scores, flawed), "note")
    assert [(each.value, each.n) for each in found] == [(6 / 8, 8), (3 / 4, 4), (3 / 4, 4)]
    unmarked = accuracy("a", known, (np.zeros(8), flawed), "note")
    assert [each.value for each in unmarked] == [0.5, "not measured", 0.0]


def test_pixels_in_regions_have_precision_and_recall() -> None:
    truth, map_ = np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), np.uint8)
    truth[0, :2], map_[0, 1:, :2] = 255, 200
    assert pixel_precision_recall(map_, truth) == (2 / 6, 2 / 8)


def test_the_contrast_of_a_flaw_is_that_to_its_ring() -> None:
    image, flaw = np.full((20, 20, 3), 100, np.uint8), np.zeros((20, 20), dtype=bool)
    flaw[8:12, 8:12] = True
    image[flaw] = (151, 100, 100)
    assert contrast_of(image, flaw) == pytest.approx(51 / 255)
    assert np.isnan(contrast_of(image, np.zeros_like(flaw))) and np.isnan(contrast_of(image, flaw | True))


def test_a_disc_is_there_only_in_its_frames() -> None:
    frames = np.full((5, 3, 30, 30), 200, np.uint8)
    changed, disc = with_disc(frames, (15, 15), 64, 2, 4)
    assert (changed[2:4][:, :, disc] == 136).all() and (changed[[0, 1, 4]] == 200).all()
    assert (changed[:, :, ~disc] == 200).all() and disc[15, 15] and not disc[15, 22]
    lighter, _ = with_disc(np.zeros_like(frames), (15, 15), 64, 0, 5)
    assert (lighter[:, :, disc] == 64).all()


def test_a_probe_finds_what_is_linear_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"])[np.arange(90) % 3]
    names, targets = one_hot(labels)
    states = targets @ rng.normal(size=(3, 40)) + 0.1 * rng.normal(size=(90, 40))
    probe = fit_probe(states[:60], targets[:60], 1e-2)
    assert (names[probe(states[60:]).argmax(1)] == labels[60:]).all()
    noise = rng.normal(size=(90, 40))
    blind = fit_probe(noise[:60], targets[:60], 1e-2)
    assert (names[blind(noise[60:]).argmax(1)] == labels[60:]).mean() < 0.7
    assert chosen_ridge(noise, labels) in RIDGES


def test_pixel_ap_is_one_for_the_truth_itself() -> None:
    truth = np.zeros((2, 4, 4), np.uint8)
    truth[:, :2] = 255
    assert pixel_ap(truth, truth) == 1 and pixel_ap(255 - truth, truth) == 0.5
    assert pixel_ap(truth, np.zeros_like(truth)) == 0


def test_kid_compares_fold_with_fold() -> None:
    rng = torch.Generator().manual_seed(0)
    same, other = (torch.randn(20 * FOLDS, 4, generator=rng) + shift for shift in (0, 2))
    base = torch.randn(20 * FOLDS, 4, generator=rng)
    near, far = kid_by_fold(base, same), kid_by_fold(base, other)
    assert near.shape == (FOLDS,) and abs(near.mean()) < far.mean() / 5


def test_rows_share_their_prompts() -> None:
    assert [one.text for one in prompts_of_row("validation", 20)] == [
        one.text for one in prompts_of_row("validation", 20)
    ]
    assert len(prompts_of_row("evaluation", 500)) == 500
    assert not {one.text for one in prompts_of_row("validation", 50)} & {
        one.text for one in prompts_of_row("evaluation", 50)
    }
    assert trainingfree.NONE[1] == "evaluation"


def test_a_gain_is_the_share_of_bases_distance_that_is_gone() -> None:
    base = np.full(FOLDS, 2.0)
    found = gain("a", base, np.full(FOLDS, 1.5), "note")
    assert found.value == pytest.approx(0.25) and found.interval == pytest.approx((0.25, 0.25))
    assert gain("a", base, np.full(FOLDS, 3.0), "note").value == pytest.approx(-0.5)


def test_hot_spots_are_counted_inside_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = np.zeros((2, 4, 4), dtype=bool)
    inside[:, :2] = True
    hot = np.zeros_like(inside)
    hot[:, 1:3, 0] = True
    monkeypatch.setattr(self_refining, "hot_spots", lambda network, images: hot)
    found = share_inside("a", None, np.zeros((2, 4, 4, 3)), inside, "note")  # type: ignore[arg-type]
    assert found.value == 0.5 and "chance 0.500" in found.note
    assert share_inside("a", None, np.zeros((0,)), inside, "").value == "not measured"  # type: ignore[arg-type]


def test_overlap_is_intersection_over_union() -> None:
    one, other = np.zeros((2, 2, 2), dtype=bool), np.zeros((2, 2, 2), dtype=bool)
    one[0, 0], other[0, :, 0] = True, True
    assert overlap(one, other) == pytest.approx(1 / 3), "a pair without regions says nothing"
    assert overlap(one[1:], other[1:]) == 0
    assert np.isnan(overlaps(one, other)[1]) and overlaps(one, other)[0] == pytest.approx(1 / 3)


def test_rows_differ_from_each_other_and_from_base_only_in_refinement() -> None:
    configs = {
        name: self_refining.configured(self_refining.Row(name, change))
        for name, change in self_refining.ROWS.items()
    }
    assert configs["base"].refinement == 0 and configs["both"].refinement == 0.5
    assert configs["forward"].reverse == 0 and configs["reverse"].forward == 0
    assert len({config.steps for config in configs.values()}) == 1
    for training in (self_refining.SMALL, self_refining.LARGE):
        every = max(1, training.steps // 20)
        bases = [training.steps - round(training.steps * share) for share in (0.2, 0.5, 0.8)]
        assert not any(base % every for base in bases), "a base phase ends with a checkpoint"


def test_the_strength_is_chosen_on_images_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def kid_of(clinic: object, row: self_refining.Row, first: int = 0) -> np.ndarray:
        seen.append(first)
        return np.full(FOLDS, {"both": 3.0, "strength-0.05": 1.0}.get(row.name, 2.0))

    monkeypatch.setattr(self_refining, "quick", lambda: False)
    monkeypatch.setattr(self_refining, "kid_of", kid_of)
    best, note = self_refining.best_strength(None)  # type: ignore[arg-type]
    assert best.name == "strength-0.05" and best.change == {"forward": 0.05, "reverse": 0.05}
    assert set(seen) == {self_refining.ANEW} and "both 3.000" in note


def test_the_champions_correction_is_chosen_by_the_teacher_and_not_by_the_judge(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Brightness:
        def to(self, device: object) -> "Brightness":
            return self

        def confidence(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(1)

    def drawn(clinic: object, row: str, *given: object) -> ImageRow:
        best = row == "champion, from 0.8 above 0.3"
        images = np.full((4, 4, 4, 3), 0 if best else 255, np.uint8)
        return ImageRow(images, np.full((4, 4, 4), 255 if best else 0, np.uint8), np.zeros(4))

    monkeypatch.setattr(choose_correction, "quick", lambda: False)
    monkeypatch.setattr(choose_correction, "generate_row", drawn)
    monkeypatch.setattr(choose_correction, "curve", lambda name, columns: f"{name}.csv")
    monkeypatch.setattr(choose_correction, "load_teacher", lambda folder: Brightness())
    monkeypatch.setattr(choose_correction.clinic_parts, "materialise", lambda name, folder: tmp_path)
    clinic = SimpleNamespace(flux=tmp_path)
    best, note = choose_correction.choose_correction(clinic, lambda config: None)  # type: ignore[arg-type]
    assert best == "from 0.8 above 0.3" and "by the teacher" in note


def test_a_flattened_map_is_as_strong_and_says_nothing_of_where(monkeypatch: pytest.MonkeyPatch) -> None:
    map_ = torch.tensor([[0.0, 1.0], [0.5, 0.1]])
    monkeypatch.setattr(self_refining.trainer, "mean_map", lambda maps: map_)
    with self_refining.flat_maps():
        assert self_refining.trainer.mean_map(map_[None]).eq(0.4).all()
    assert self_refining.trainer.mean_map(map_[None]) is map_
