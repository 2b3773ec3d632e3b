"""The variational bound of a learned variance."""

import math

import pytest
import torch

from dataengine.treatment.families.diffusion import add_noise
from dataengine.treatment.refining.variance import (
    discretised_log_likelihood,
    gaussian_kl,
    normal_cdf,
    variational_bound,
)

BETAS = torch.linspace(1e-4, 0.02, 1000)


def made(time):
    """Values, their state, the true noise, and times."""
    rng = torch.Generator().manual_seed(time)
    clean = (torch.rand(2, 3, 4, 4, generator=rng) * 255).round() / 127.5 - 1
    noise, times = torch.randn(clean.shape, generator=rng), torch.tensor([time, time])
    kept = (1 - BETAS).cumprod(0)[times]
    return clean, add_noise(clean, noise, kept.sqrt(), (1 - kept).sqrt()), noise, times


def test_it_vanishes_for_the_true_posterior_and_nothing_is_better():
    clean, state, noise, times = made(400)
    lower = -torch.ones_like(clean)  # v = 0: exactly β̃
    assert variational_bound(clean, state, noise, lower, times, BETAS).abs().max() < 1e-5
    upper = -lower
    assert (variational_bound(clean, state, noise, upper, times, BETAS) > 0).all()
    wrong = variational_bound(clean, state, noise + 0.1, lower, times, BETAS)
    assert (wrong > 5e-5).all()


def test_the_mean_takes_no_gradient():
    clean, state, noise, times = made(400)
    noise, share = noise.requires_grad_(), torch.zeros_like(clean).requires_grad_()
    variational_bound(clean, state, noise, share, times, BETAS).sum().backward()
    assert noise.grad is None and share.grad.abs().min() > 0


def test_the_first_step_is_a_likelihood():
    clean, state, noise, times = made(0)
    found = variational_bound(clean, state, noise, -torch.ones_like(clean), times, BETAS)
    assert (found > 0).all() and (found < 8).all(), "bits of an 8-bit value"


def test_the_divergence_is_that_of_normal_distributions():
    mean, log_variance, other, other_log = map(torch.tensor, (0.3, -1.0, -0.2, 0.5))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mean, (log_variance / 2).exp()), normal(other, (other_log / 2).exp())
    )
    assert gaussian_kl(mean, log_variance, other, other_log).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_probabilities_of_all_values_add_up_to_one():
    values = torch.arange(256) / 127.5 - 1
    total = discretised_log_likelihood(values, torch.tensor(0.9), torch.tensor(math.log(0.3))).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-4)
    assert normal_cdf(torch.tensor(1.96)).item() == pytest.approx(0.975, abs=1e-4)
