"""Loss terms against formulas written out by hand, and what their gradients do to a silent detector."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from dataengine.diagnosis.config import DetectorTrainingConfig, LossConfig
from dataengine.diagnosis.losses import dice_loss, focal_loss, map_loss, peak_loss, squared_error
from pipelines.recipes import paper

PREDICTED = torch.tensor([[[0.5, 0.9]], [[0.2, 0.1]]])
TARGETS = torch.tensor([[[0.0, 1.0]], [[0.3, 0.0]]])
ALL = torch.ones(2, 1, 2)
FIRST = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, 8, 8, generator=generator), (torch.rand(3, 8, 8, generator=generator) > 0.8).float()


def test_the_default_is_equation_1_weighted_by_image() -> None:
    predicted = torch.tensor([[[0.5, 1.0]], [[0.0, 0.0]]])
    targets = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])
    ones = torch.ones(2)
    assert map_loss(predicted, targets, ones, ALL).item() == pytest.approx((0.125 + 0.5) / 2)
    assert map_loss(predicted, targets, 2 * ones, ALL).item() == pytest.approx(0.125 + 0.5)
    assert map_loss(predicted, targets, torch.tensor([2.0, 0.0]), ALL).item() == pytest.approx(0.125)
    assert map_loss(predicted, targets, ones, ALL, LossConfig()) == F.mse_loss(predicted, targets)


@pytest.mark.parametrize(
    "config", [LossConfig(), LossConfig(focal=1), LossConfig(squared=0, dice=1), LossConfig(peak=1)]
)
def test_pixels_left_out_teach_nothing(config: LossConfig) -> None:
    predicted = PREDICTED.clone().requires_grad_(True)
    map_loss(predicted, TARGETS.round(), torch.ones(2), 1 - FIRST, config).backward()
    assert predicted.grad is not None and predicted.grad[:, :, 0].tolist() == [[0.0], [0.0]]
    nothing = map_loss(PREDICTED, TARGETS, torch.ones(2), torch.zeros(2, 1, 2), config)
    assert nothing.item() == 0


def test_flawed_pixels_weigh_more() -> None:
    assert squared_error(PREDICTED, TARGETS, ALL, 4.0).tolist() == pytest.approx(
        [(0.25 + 4 * 0.01) / 2, ((1 + 3 * 0.3) * 0.01 + 0.01) / 2]
    )
    assert torch.equal(squared_error(PREDICTED, TARGETS, ALL, 1.0), squared_error(PREDICTED, TARGETS, ALL))


@pytest.mark.parametrize("seed", range(3))
def test_gamma_0_is_cross_entropy_of_soft_targets_too(seed: int) -> None:
    predicted, _ = batch(seed)
    soft, _ = batch(seed + 10)
    expected = F.binary_cross_entropy(predicted, soft, reduction="none").mean(dim=(1, 2))
    assert torch.allclose(focal_loss(predicted, soft, torch.ones_like(soft), gamma=0), expected, atol=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_by_hand_and_as_torchvision_has_it(gamma: float) -> None:
    from torchvision.ops import sigmoid_focal_loss

    by_hand = -((0.5**gamma) * math.log(0.5) + 3 * (0.1**gamma) * math.log(0.9)) / 2
    assert focal_loss(PREDICTED, TARGETS, ALL, gamma, 3.0)[0].item() == pytest.approx(by_hand, rel=1e-5)
    predicted, targets = batch()
    alpha = 0.75
    stock = sigmoid_focal_loss(torch.logit(predicted), targets, alpha=alpha, gamma=gamma, reduction="mean")
    ours = focal_loss(predicted, targets, torch.ones_like(targets), gamma, alpha / (1 - alpha)).mean()
    assert ours.item() * (1 - alpha) == pytest.approx(stock.item(), rel=1e-4)


def test_confidences_of_0_and_1_have_a_finite_loss() -> None:
    wrong = torch.tensor([[[0.0, 1.0]]], requires_grad=True)
    loss = focal_loss(wrong, 1 - wrong.detach(), torch.ones(1, 1, 2), 2.0)
    loss.sum().backward()
    assert loss.isfinite().all() and wrong.grad is not None and wrong.grad.isfinite().all()


def test_dice_by_hand_and_a_small_flaw_counts_as_much_as_a_large_one() -> None:
    assert dice_loss(PREDICTED, TARGETS, ALL).tolist() == pytest.approx([1 - (1.8 + 1) / (1.4 + 1 + 1), 0])
    small, large = torch.zeros(1, 32, 32), torch.zeros(1, 32, 32)
    small[:, :4, :4], large[:, :16, :16] = 1, 1
    ones, silent = torch.ones(1, 32, 32), torch.zeros(1, 32, 32)
    missed = [dice_loss(silent, each, ones).item() for each in (small, large)]
    assert missed == pytest.approx([1 - 1 / 17, 1 - 1 / 257])
    errors = [squared_error(silent, each, ones).item() for each in (small, large)]
    assert errors[1] == 16 * errors[0]
    assert dice_loss(small, small, ones).item() == 0


def test_clean_images_have_no_dice_loss_but_keep_the_other_terms() -> None:
    predicted = torch.full((1, 4, 4), 0.4)
    clean, ones = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    assert dice_loss(predicted, clean, ones).item() == 0
    both = map_loss(predicted, clean, torch.ones(1), ones, LossConfig(dice=3.0))
    assert both.item() == pytest.approx(0.16)


def test_the_peak_is_the_mean_of_the_highest_counted_confidences() -> None:
    predicted = torch.linspace(0, 0.99, 100).reshape(1, 10, 10).repeat(2, 1, 1)
    targets = torch.zeros(2, 10, 10)
    targets[1, 0, 0] = 1
    highest = (0.99 + 0.98 + 0.97 + 0.96) / 4
    loss = peak_loss(predicted, targets, torch.ones(2, 10, 10), share=0.04)
    assert loss.tolist() == pytest.approx([-math.log(1 - highest), -math.log(highest)], rel=1e-4)
    upper = torch.ones(2, 10, 10)
    upper[:, 5:] = 0
    assert peak_loss(predicted, targets, upper, share=0.01)[0].item() == pytest.approx(
        -math.log(0.51), rel=1e-4
    )
    hidden = torch.ones(2, 10, 10)
    hidden[1, 0, 0] = 0
    assert peak_loss(predicted, targets, hidden, share=0.01)[1].item() == pytest.approx(
        -math.log(0.01), rel=1e-3
    )
    assert peak_loss(predicted, targets, 0 * upper, share=0.01).tolist() == [0, 0]


def test_a_missed_image_is_pulled_up_and_a_false_alarm_down_at_its_peak_alone() -> None:
    predicted = torch.full((2, 8, 8), 0.1)
    predicted[:, 3, 3] = 0.4
    predicted.requires_grad_(True)
    targets = torch.zeros(2, 8, 8)
    targets[1, 6, 6] = 1
    peak_loss(predicted, targets, torch.ones(2, 8, 8), share=1 / 64).sum().backward()
    assert predicted.grad is not None
    down, up = predicted.grad[0], predicted.grad[1]
    assert down[3, 3] > 0 > up[3, 3] and down.count_nonzero() == up.count_nonzero() == 1


def test_a_confident_miss_keeps_its_gradient_with_focal_and_loses_it_with_squared_error() -> None:
    def pull(config: LossConfig) -> float:
        logit = torch.tensor([[[-6.0]]], requires_grad=True)
        map_loss(logit.sigmoid(), torch.ones(1, 1, 1), torch.ones(1), torch.ones(1, 1, 1), config).backward()
        assert logit.grad is not None
        return -logit.grad.item()

    assert pull(LossConfig()) < 0.01 < 0.9 < pull(LossConfig(squared=0, focal=1))


def test_the_terms_add_up_by_their_weights() -> None:
    predicted, targets = batch()
    ones, weights = torch.ones_like(targets), torch.tensor([1.0, 2.0, 0.5])
    config = LossConfig(
        squared=0.5, focal=2.0, focal_gamma=1.0, dice=0.3, flawed_pixels=3.0, peak=0.1, peak_share=0.1
    )
    terms = (
        0.5 * squared_error(predicted, targets, ones, 3.0)
        + 2.0 * focal_loss(predicted, targets, ones, 1.0, 3.0)
        + 0.3 * dice_loss(predicted, targets, ones)
        + 0.1 * peak_loss(predicted, targets, ones, 0.1)
    )
    expected = (weights * terms).mean()
    assert map_loss(predicted, targets, weights, ones, config).item() == pytest.approx(expected.item())


def test_a_loss_without_a_term_and_negative_weights_are_refused() -> None:
    with pytest.raises(ValidationError, match="no term"):
        LossConfig(squared=0)
    for wrong in ({"dice": -1}, {"focal_gamma": 9}, {"flawed_pixels": 0}):
        with pytest.raises(ValidationError):
            LossConfig.model_validate(wrong)


def test_the_papers_recipe_keeps_the_papers_loss() -> None:
    for config in (paper().retrain, paper().train_teacher, DetectorTrainingConfig()):
        assert config.loss == LossConfig() and config.flawed is None
