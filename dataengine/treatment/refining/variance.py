"""The loss of improved DDPM's learned variance (Nichol & Dhariwal 2021). Plain functions.

All images are NCHW in [-1, 1], or latents; times are integers, shape (N,); `betas` are those of the training
noise.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 255
"""Number of steps between the 8-bit values in [-1, 1]."""


def variational_bound(
    clean: Tensor, state: Tensor, noise: Tensor, share: Tensor, times: Tensor, betas: Tensor
) -> Tensor:
    """L_t of the variational bound in bits per dimension, shape (N,), with gradient for `share` only.

    KL(q(x_{t−1} | x_t, x_0) ‖ p_θ(x_{t−1} | x_t)), and −log p_θ(x_0 | x_1) for t = 0 (Sec. 2.1). The mean of
    p_θ follows from the predicted `noise`; its log-variance is v·log β_t + (1 − v)·log β̃_t (Eq. 15), where
    `share` is the network's output v, in [-1, 1].
    """
    terms = _terms(times, betas.to(clean))
    predicted = (state - terms["sigma"] * noise.detach()) / terms["alpha"]
    mean = terms["of clean"] * predicted + terms["of state"] * state
    true_mean = terms["of clean"] * clean + terms["of state"] * state
    weight = (share + 1) / 2
    log_variance = weight * terms["beta"].log() + (1 - weight) * terms["posterior"].log()
    divergence = gaussian_kl(true_mean, terms["posterior"].log(), mean, log_variance)
    likelihood = -discretised_log_likelihood(clean, mean, log_variance / 2)
    bound = torch.where(times.to(clean.device).reshape(-1, 1, 1, 1) == 0, likelihood, divergence)
    return bound.mean((1, 2, 3)) / math.log(2)


def _terms(times: Tensor, betas: Tensor) -> dict[str, Tensor]:
    """Levels and the posterior's coefficients at these times, each N111 (Ho et al. 2020, Eq. 6-7)."""
    kept = (1 - betas).cumprod(0)
    before = F.pad(kept[:-1], (1, 0), value=1.0)
    posterior = betas * (1 - before) / (1 - kept)
    # β̃_0 is 0; the logarithm of β̃_1 is used for it, as the authors do.
    posterior = torch.cat([posterior[1:2], posterior[1:]])
    found = {
        "alpha": kept.sqrt(),
        "sigma": (1 - kept).sqrt(),
        "beta": betas,
        "posterior": posterior,
        "of clean": betas * before.sqrt() / (1 - kept),
        "of state": (1 - before) * (1 - betas).sqrt() / (1 - kept),
    }
    at = times.to(betas.device)
    return {name: values[at].reshape(-1, 1, 1, 1) for name, values in found.items()}


def gaussian_kl(mean: Tensor, log_variance: Tensor, other: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL divergence of the first normal distribution from the second, per value, in nats."""
    spread = log_variance - other_log_variance
    return 0.5 * (spread.exp() - 1 - spread + (mean - other).square() * (-other_log_variance).exp())


def discretised_log_likelihood(values: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of 8-bit `values` in [-1, 1] under a normal distribution, in nats (Ho et al., Eq. 13).

    The lowest and the highest value include the tails beyond them.
    """
    scale = (-log_scale).exp()
    upper = normal_cdf((values - mean + 1 / LEVELS) * scale)
    lower = normal_cdf((values - mean - 1 / LEVELS) * scale)
    edge = 1 - 1 / (2 * LEVELS)
    upper = torch.where(values > edge, torch.ones_like(upper), upper)
    lower = torch.where(values < -edge, torch.zeros_like(lower), lower)
    return (upper - lower).clamp(min=1e-12).log()


def normal_cdf(values: Tensor) -> Tensor:
    """Φ."""
    return 0.5 * (1 + torch.erf(values / math.sqrt(2)))
