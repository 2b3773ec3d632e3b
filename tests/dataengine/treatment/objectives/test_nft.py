"""DiffusionNFT against hand-computed toys: two cells, a linear denoiser, sums in plain loops."""

import math

import pytest
import torch

from dataengine.treatment.objectives.nft import (
    cell_rewards,
    nft_loss,
    old_policy_decay,
    optimality,
    update_old_policy,
)


def test_a_cell_is_rewarded_for_what_its_pixels_show():
    confidence = torch.tensor([[[0.0, 0.2, 0.8, 0.4], [0.4, 0.2, 0.0, 0.0]]])
    assert cell_rewards(confidence, (1, 2)).flatten().tolist() == pytest.approx([0.8, 0.7])
    assert cell_rewards(confidence, (1, 2), "maximum").flatten().tolist() == pytest.approx([0.6, 0.2])
    assert cell_rewards(confidence, (1, 1)).flatten().tolist() == pytest.approx([0.75])


def by_loops(groups, clip):
    """r of every reward, one list of images per prompt, each a list of cells."""
    differences = []
    for group in groups:
        values = [value for image in group for value in image]
        mean = sum(values) / len(values)
        differences.append([[value - mean for value in image] for image in group])
    everything = [value for group in differences for image in group for value in image]
    spread = math.sqrt(sum(value**2 for value in everything) / len(everything)) + 1e-4
    return [
        [[0.5 + 0.5 * max(-1, min(1, value / spread / clip)) for value in image] for image in group]
        for group in differences
    ]


def test_images_are_compared_with_those_of_their_prompt():
    """One prompt's images are all worse than the other's: that alone tells neither good nor bad."""
    groups = [[[0.9, 0.8], [0.9, 0.2]], [[0.3, 0.3], [0.3, 0.3]]]
    rewards = torch.tensor([image for group in groups for image in group])[:, None, None]
    found = optimality(rewards, group=2, clip=1.0)
    expected = [value for group in by_loops(groups, 1.0) for image in group for value in image]
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    assert (
        found[1, 0, 0].tolist() == pytest.approx([expected[2], 0.0])
        and found[2:].tolist() == [[[[0.5, 0.5]]]] * 2
    )
    assert optimality(torch.full((4, 1, 1, 2), 0.3), 2, 1.0) is None
    apart = torch.tensor([0.1, 0.1, 0.9, 0.9]).reshape(4, 1, 1, 1)
    assert optimality(apart, 2, 1.0) is None and optimality(apart, 4, 1.0) is not None


CLEAN, NOISE, SIGMA = [0.5, -1.0], [0.2, 0.7], 0.6
WEIGHT, OLD, BETA = 0.3, 0.1, 0.5


def toy_loss(weight, good, adaptive):
    """One image of two cells; the flow model answers weight · x_t, the old one OLD · x_t."""
    total = 0.0
    states = [(1 - SIGMA) * clean + SIGMA * noise for clean, noise in zip(CLEAN, NOISE, strict=True)]
    residuals = {1: [], -1: []}
    for state, clean, noise in zip(states, CLEAN, NOISE, strict=True):
        old, new = OLD * state, weight * state
        residuals[1].append(SIGMA * ((1 - BETA) * old + BETA * new - (noise - clean)))
        residuals[-1].append(SIGMA * ((1 + BETA) * old - BETA * new - (noise - clean)))
    # The scales are those at WEIGHT: they have no gradient.
    scales = {1: 1.0, -1: 1.0}
    if adaptive:
        for sign, mixed in ((1, (1 - BETA) * OLD + BETA * WEIGHT), (-1, (1 + BETA) * OLD - BETA * WEIGHT)):
            at_weight = [
                abs(SIGMA * (mixed * state - (noise - clean)))
                for state, clean, noise in zip(states, CLEAN, NOISE, strict=True)
            ]
            scales[sign] = sum(at_weight) / 2
    for cell in range(2):
        total += good[cell] * residuals[1][cell] ** 2 / scales[1]
        total += (1 - good[cell]) * residuals[-1][cell] ** 2 / scales[-1]
    return total / 2 / BETA


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("good", [[0.9, 0.2], [0.5, 0.5]])
def test_loss_and_gradient_of_the_toy(good, adaptive):
    clean, noise = (torch.tensor(values).reshape(1, 1, 1, 2) for values in (CLEAN, NOISE))
    weight = torch.tensor(WEIGHT, requires_grad=True)
    state = (1 - SIGMA) * clean + SIGMA * noise
    level, cells = torch.tensor([SIGMA]), torch.tensor(good).reshape(1, 1, 1, 2)
    loss = nft_loss(weight * state, OLD * state, noise - clean, level, cells, BETA, adaptive)
    loss.sum().backward()
    assert float(loss) == pytest.approx(toy_loss(WEIGHT, good, adaptive), rel=1e-5)
    step = 1e-4
    slope = (toy_loss(WEIGHT + step, good, adaptive) - toy_loss(WEIGHT - step, good, adaptive)) / 2 / step
    assert float(weight.grad) == pytest.approx(slope, rel=1e-3)


def test_a_bad_cell_is_left_and_a_good_one_kept():
    """Where the policies are still one, the step towards the drawn image is (2r − 1) of the ordinary one."""
    old = torch.tensor([[[[1.0, 1.0, 1.0]]]])
    output = old.clone().requires_grad_()
    target = torch.zeros_like(old)
    good = torch.tensor([[[[1.0, 0.5, 0.0]]]])
    nft_loss(output, old, target, torch.ones(1), good, 1.0, False).sum().backward()
    towards = -output.grad.flatten()
    assert towards.tolist() == pytest.approx([-2 / 3, 0.0, 2 / 3])


def test_one_reward_per_image_is_a_constant_map():
    torch.manual_seed(0)
    output, old, target = (torch.randn(4, 2, 3, 3) for _ in range(3))
    maps = torch.tensor([0.1, 0.4, 0.3, 0.0]).reshape(4, 1, 1).expand(4, 6, 6)
    whole, cells = (optimality(cell_rewards(maps, size), group=2, clip=2.0) for size in ((1, 1), (3, 3)))
    sigma = torch.tensor([0.2, 0.4, 0.6, 0.8])
    plain, each = (nft_loss(output, old, target, sigma, good, 0.7, True) for good in (whole, cells))
    assert torch.allclose(plain, each, atol=1e-6)


def test_the_old_policy_follows_more_and_more_slowly():
    assert [old_policy_decay(update, 2, 0.25, 0.6) for update in (1, 2, 3, 4, 5, 9)] == [
        0,
        0,
        0.25,
        0.5,
        0.6,
        0.6,
    ]
    old, weights = {"a": torch.tensor([1.0])}, {"a": torch.nn.Parameter(torch.tensor([3.0]))}
    update_old_policy(old, weights, 0.25)
    assert old["a"].tolist() == [2.5]
