"""Latents to images and back through a float32 VAE, whatever the surrounding precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dataengine.errors import ModelRefused


def require_channels(vae: AutoencoderKL, config: Any, what: str) -> None:
    """Raise `ModelRefused` unless a denoiser of that config takes and answers the VAE's latents; the output
    may have as many further channels for a learned variance."""
    latent = vae.config.latent_channels
    output = config.out_channels or config.in_channels
    if config.in_channels != latent or output not in (latent, 2 * latent):
        raise ModelRefused(
            f"this {what} takes {config.in_channels} and answers {output} channels, and latents of its VAE "
            f"have {latent}; models for inpainting, editing and depth are not supported"
        )


def decode(vae: AutoencoderKL, latents: Tensor, shift: float) -> Tensor:
    """Images float32 N3HW in [0, 1] of latents NCHW, with gradient.

    Autocast is switched off: half-precision FLUX VAEs give black images.
    """
    with without_autocast(latents.device):
        unscaled = latents.float() / vae.config.scaling_factor + shift
        return (vae.decode(unscaled, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, shift: float) -> Tensor:
    """Scaled latents NCHW of images float N3HW in [0, 1]: the posterior's mean."""
    with without_autocast(images.device):
        mean = vae.encode(images.float() * 2 - 1).latent_dist.mean
    return (mean - shift) * vae.config.scaling_factor


def noise(seeds: list[int], shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Standard Gaussian noise NCHW, each image from its own generator, equal on every device."""
    drawn = [torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.cat(drawn).to(device)


def scale_factor(vae: AutoencoderKL) -> int:
    """Pixels per latent along one side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Context without autocast, which the meta device does not know."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
