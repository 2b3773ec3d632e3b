"""DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117), and the same with a weight per latent cell (ours).

The forward process only: an image that the old policy drew is noised again, and one prediction of it is all
that the gradient flows through. With the old policy's output o, the trained one's v and the target y (the
noise, or the velocity ε − x_0), the implicit policies are

    v⁺ = (1 − β)·o + β·v,    v⁻ = (1 + β)·o − β·v

and the loss r·‖v⁺ − y‖² + (1 − r)·‖v⁻ − y‖², where r ∈ [0, 1] says how much better than its group an image
is. At v = o its gradient is 2·(2r − 1)·(o − y)·∂v: towards what is good, away from what is bad, nothing at
r = ½. The paper has one r per image; here there may be one per cell of the latents, from the pooled map.

The residual is that of σ_t·(output − y): for flow matching x̂_0's, as in the authors' code; for noise
prediction α_t·x̂_0's, since x̂_0's own has no bound where α_t → 0. Cells are (h, w) of NCHW latents.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dataengine.treatment.families.diffusion import broadcast_level

LEAST_SPREAD = 1e-4
"""Added to a spread before it divides (authors' code)."""
CONSTANT = 1e-7
"""Spread of rewards below which there is nothing to tell images apart by."""
LEAST_RESIDUAL = 1e-5
"""Lower limit of the mean absolute residual that divides a squared one."""


def cell_rewards(confidence: Tensor, cells: tuple[int, int], pooling: str = "mean") -> Tensor:
    """R = 1 − the confidence (float NHW in [0, 1]) pooled to cells (h, w): float N1hw in [0, 1].

    A cell's pixels are those that its latents are decoded to; one cell, (1, 1), is the whole image. "mean"
    or "maximum" of them.
    """
    maps = confidence[:, None].float()
    pooled = F.adaptive_avg_pool2d(maps, cells) if pooling == "mean" else F.adaptive_max_pool2d(maps, cells)
    return 1 - pooled


def optimality(rewards: Tensor, group: int, clip: float) -> Tensor | None:
    """r = ½ + ½·clip((R − mean)/Z/c, −1, 1), of the shape of the rewards, N1hw: the probability that an
    image, or a cell of it, is a good one among those of its prompt (the paper's, for cells as well).

    The mean is over the `group` consecutive images of one prompt and all their cells; Z is the standard
    deviation of the differences to it over the batch (the authors' code: of all rewards, which prompts of
    unequal difficulty widen). None where all rewards of each
    group are the same: nothing tells good from bad.
    """
    grouped = rewards.reshape(-1, group, *rewards.shape[1:])
    difference = grouped - grouped.mean(dim=tuple(range(1, grouped.ndim)), keepdim=True)
    spread = difference.pow(2).mean().sqrt()
    if spread < CONSTANT:
        return None
    advantage = difference / (spread + LEAST_SPREAD)
    return (0.5 + 0.5 * (advantage / clip).clamp(-1, 1)).reshape(rewards.shape)


def nft_loss(
    output: Tensor, old: Tensor, target: Tensor, sigma: Tensor, good: Tensor, beta: float, adaptive: bool
) -> Tensor:
    """The loss of each image, shape (N,), for outputs and target NCHW, σ_t of shape (N,) and r = `good`, N1hw
    or N111; divided by β, so that the gradient at v = o does not depend on it, as in the authors' code.

    `adaptive` divides each squared residual by its image's mean absolute one (their code); without, it is the
    paper's plain square.
    """
    level = broadcast_level(sigma, output)

    def error(prediction: Tensor) -> Tensor:
        residual = level * (prediction - target)
        squared = residual.pow(2)
        if not adaptive:
            return squared
        scale = residual.detach().abs().mean(dim=(1, 2, 3), keepdim=True)
        return squared / scale.clamp(min=LEAST_RESIDUAL)

    positive, negative = (1 - beta) * old + beta * output, (1 + beta) * old - beta * output
    loss = good * error(positive) + (1 - good) * error(negative)
    return loss.mean(dim=(1, 2, 3)) / beta


def old_policy_decay(update: int, flat: int, rate: float, most: float) -> float:
    """η_i, the share of the old policy that stays after update i: 0 for the first `flat` updates, in which it
    is the trained one, then growing by `rate` an update up to `most`."""
    return 0.0 if update <= flat else min((update - flat) * rate, most)


@torch.no_grad()
def update_old_policy(old: dict[str, Tensor], weights: dict[str, Tensor], decay: float) -> None:
    """θ_old ← η·θ_old + (1 − η)·θ, in place."""
    for name, weight in old.items():
        weight.mul_(decay).add_(weights[name].detach().to(weight.device), alpha=1 - decay)
