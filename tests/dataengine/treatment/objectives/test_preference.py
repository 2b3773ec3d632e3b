"""Localized preference against values computed by plain loops."""

import math

import numpy as np
import pytest
import torch

from dataengine.treatment.config import PreferenceConfig, SamplingConfig
from dataengine.treatment.objectives.preference import (
    PairBatch,
    implicit_margin,
    latent_cells,
    localized_preference,
    preference_loss,
    region_errors,
)
from tests.dataengine.treatment.objectives.toys import NOTHING, Linear, Noisy

WINNERS = torch.tensor([[[[0.1, 0.9], [0.4, -0.3]]], [[[1.0, 0.2], [0.0, 0.7]]]])
LOSERS = torch.tensor([[[[0.1, -0.8], [0.4, -0.3]]], [[[-1.0, 0.2], [0.6, 0.7]]]])
CELLS = torch.tensor([[[0.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
OTHER = (0.9, 0.2)
"""The reference's parameters."""


def pairs(**changes):
    made = {"winners": WINNERS, "losers": LOSERS, "cells": CELLS, "conditioning": NOTHING}
    return PairBatch(**made | changes)


def loss_of(family, config, batch=None, seed=5):
    return localized_preference(
        family,
        batch or pairs(),
        config,
        SamplingConfig(steps=4),
        lambda: family.as_other(*OTHER),
        torch.Generator().manual_seed(seed),
    )


def by_loops(kind, w, b, config, seed=5):
    """The loss by the definitions, one value at a time."""
    rng, toy = torch.Generator().manual_seed(seed), kind(0, 0)
    times = toy.random_times(2, rng)
    noises = torch.randn(WINNERS.shape, generator=rng)
    losses = []
    for image in range(2):
        alpha, sigma = (float(level[image]) for level in toy.levels(times))
        errors = {}
        for name, images in (("winner", WINNERS), ("loser", LOSERS)):
            for who, (slope, offset) in (("mine", (w, b)), ("theirs", OTHER)):
                squared = []
                for row in range(2):
                    for column in range(2):
                        if not CELLS[image, row, column]:
                            continue
                        x0, noise = (float(each[image, 0, row, column]) for each in (images, noises))
                        target = noise if kind is Noisy else noise - x0
                        squared.append((slope * (alpha * x0 + sigma * noise) + offset - target) ** 2)
                errors[name, who] = sum(squared) / len(squared)
        lead = {who: errors["loser", who] - errors["winner", who] for who in ("mine", "theirs")}
        margin = config.beta / 2 * (lead["mine"] - lead["theirs"])
        if config.margin is not None:
            margin = min(margin, config.margin)
        losses.append(math.log(1 + math.exp(-margin)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("kind", [Linear, Noisy])
@pytest.mark.parametrize("margin", [None, 0.05, 2.0])
@pytest.mark.parametrize(("w", "b"), [(0.3, -0.2), (-1.0, 0.5)])
def test_the_loss_by_plain_loops(kind, margin, w, b):
    config = PreferenceConfig(beta=1.5, margin=margin)
    expected = by_loops(kind, w, b, config)
    family = kind(w, b)
    loss = loss_of(family, config)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    step = 1e-4
    numeric = (by_loops(kind, w + step, b, config) - by_loops(kind, w - step, b, config)) / (2 * step)
    assert family.w.grad.item() == pytest.approx(numeric, rel=1e-2, abs=1e-6)


def test_as_its_reference_a_generator_favours_nobody():
    assert loss_of(Linear(*OTHER), PreferenceConfig()).item() == pytest.approx(math.log(2), abs=1e-6)


def test_what_differs_outside_the_region_does_not_count():
    elsewhere = LOSERS + (1 - CELLS[:, None]) * torch.tensor([[[[3.0, 0.0], [-2.0, 5.0]]]])
    assert not torch.equal(elsewhere, LOSERS)
    losses = [
        loss_of(Linear(0.3, 0), PreferenceConfig(beta=3), pairs(losers=one)) for one in (LOSERS, elsewhere)
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    inside = pairs(losers=LOSERS + CELLS[:, None])
    assert loss_of(Linear(0.3, 0), PreferenceConfig(beta=3), inside).item() != pytest.approx(losses[0].item())


def test_a_pair_beyond_the_margin_has_no_gradient():
    margins = torch.tensor([-1.0, 0.5, 3.0], requires_grad=True)
    preference_loss(margins, 2.0).backward()
    expected = [-1 / (1 + math.exp(-1.0)) / 3, -1 / (1 + math.exp(0.5)) / 3, 0.0]
    assert margins.grad.tolist() == pytest.approx(expected, rel=1e-5)
    unbounded = margins.detach().requires_grad_()
    preference_loss(unbounded, None).backward()
    assert unbounded.grad[2].item() == pytest.approx(-1 / (1 + math.exp(3.0)) / 3, rel=1e-5)


def test_the_margin_by_hand():
    """A winner learned (0.5 → 0.2) and a loser unlearned (0.4 → 0.6): 10/2 · (0.2 + 0.3)."""
    mine, theirs = (torch.tensor([0.2]), torch.tensor([0.6])), (torch.tensor([0.5]), torch.tensor([0.4]))
    assert implicit_margin(mine, theirs, 10.0).item() == pytest.approx(2.5)


def test_errors_are_averaged_over_cells_and_channels():
    output = torch.zeros(2, 2, 2, 2)
    target = torch.arange(16, dtype=torch.float32).reshape(2, 2, 2, 2)
    cells = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    found = region_errors(output, target, cells)
    assert found.tolist() == pytest.approx([(0 + 9 + 16 + 49) / 4, 0.0])


def test_times_may_be_those_of_the_sampling_steps():
    seen = []

    class Watched(Linear):
        def predict(self, latents, times, conditioning, guidance):
            seen.append(times)
            return super().predict(latents, times, conditioning, guidance)

    for seed in range(8):
        loss_of(Watched(0.3, 0), PreferenceConfig(times="steps"), seed=seed)
    assert set(torch.cat(seen).tolist()) == {1.0, 0.75, 0.5, 0.25}
    assert all(torch.equal(times[:2], times[2:]) for times in seen), "winner and loser have one time"


def test_a_cell_is_inside_if_any_of_its_pixels_is():
    mask = np.zeros((16, 16), bool)
    mask[3, 12] = True
    like = torch.zeros(1, 4, 4, 4)
    assert latent_cells([mask], (16, 16), like)[0].nonzero().tolist() == [[0, 3]]
    # Of another size and shape: cut to a square in the middle, then half the size.
    wide = np.zeros((32, 48), bool)
    wide[:, :8] = True
    wide[20:24, 8:12] = True
    cells = latent_cells([wide], (16, 16), like)[0]
    assert cells[2, 0] == 1 and cells[:, 2:].sum() == 0, "what is cut off does not count"


@pytest.mark.parametrize("sources", [(), ("votes", "votes")])
def test_sources_are_named_once(sources):
    with pytest.raises(ValueError, match="sources must name one or more"):
        PreferenceConfig(sources=sources)
