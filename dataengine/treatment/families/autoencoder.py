"""Latents to images and back through a float32 VAE, whatever the surrounding precision."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor


def decode(vae: AutoencoderKL, latents: Tensor, shift: float) -> Tensor:
    """Images float32 N3HW in [0, 1] of latents NCHW, with gradient.

    Autocast is switched off: half-precision FLUX VAEs give black images.
    """
    with torch.autocast(latents.device.type, enabled=False):
        unscaled = latents.float() / vae.config.scaling_factor + shift
        return (vae.decode(unscaled, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, shift: float) -> Tensor:
    """Scaled latents NCHW of images float N3HW in [0, 1]: the posterior's mean."""
    with torch.autocast(images.device.type, enabled=False):
        mean = vae.encode(images.float() * 2 - 1).latent_dist.mean
    return (mean - shift) * vae.config.scaling_factor


def noise(seeds: list[int], shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Standard Gaussian noise NCHW, each image from its own generator, equal on every device."""
    drawn = [torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.cat(drawn).to(device)


def scale_factor(vae: AutoencoderKL) -> int:
    """Pixels per latent along one side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)
