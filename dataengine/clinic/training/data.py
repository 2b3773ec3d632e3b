"""Drawings as tensors, and the VAE's round trip, which every generated image has gone through."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dataengine.clinic.world import SIZE, Drawing, Stream

CHUNK = 100


@dataclass(frozen=True)
class Drawings:
    """A batch of drawings: `images` uint8 [N, 3, 64, 64], `masks` bool [N, 64, 64], captions and scenes, in
    order.
    """

    images: Tensor
    masks: Tensor
    captions: list[str]
    shown: list[Drawing]


def render(stream: Stream, indices: Iterable[int]) -> Drawings:
    """Render the given indices of a stream."""
    order = list(indices)
    images = torch.empty((len(order), 3, SIZE, SIZE), dtype=torch.uint8)
    masks = torch.empty((len(order), SIZE, SIZE), dtype=torch.bool)
    shown: list[Drawing] = []
    nothing = np.empty(0, np.uint8)
    for row, index in enumerate(order):
        drawing = stream[index]
        images[row] = torch.from_numpy(drawing.image.copy()).permute(2, 0, 1)
        masks[row] = torch.from_numpy(drawing.label_map > 0)
        shown.append(
            Drawing(nothing, nothing, drawing.caption, drawing.category, drawing.attributes, drawing.flaws)
        )
    return Drawings(images, masks, [drawing.caption for drawing in shown], shown)


def to_float(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]."""
    return images.float() / 255


def _half(device: torch.device) -> torch.autocast:
    """bfloat16 where it is quick: a CPU without its instructions convolves forty times more slowly in it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """uint8 images [N, 3, 64, 64] as mean latents float32 [N, 8, 16, 16], unscaled."""
    device = next(vae.parameters()).device
    parts = []
    with torch.no_grad(), _half(device):
        for chunk in images.split(CHUNK):
            parts.append(vae.encode(to_float(chunk).to(device) * 2 - 1).latent_dist.mean.float().cpu())
    return torch.cat(parts)


def round_trip(vae: AutoencoderKL, images: Tensor, noise: float = 0.0) -> Tensor:
    """Encode and decode uint8 images by the VAE, with latent noise of a strength sampled from U(0, `noise`).

    The strength is in standard deviations of the latents. Generated images come from the same decoder and
    from inexact latents; an oracle that was not trained on such images predicts artifacts at the decoder's
    traces.
    """
    device = next(vae.parameters()).device
    latents = encode(vae, images)
    if noise > 0:
        strength = noise * torch.rand(len(latents), 1, 1, 1) / vae.config.scaling_factor
        latents = latents + strength * torch.randn_like(latents)
    parts = []
    with torch.no_grad(), _half(device):
        for chunk in latents.split(CHUNK):
            pixels = vae.decode(chunk.to(device)).sample.float().cpu()
            parts.append(((pixels.clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.cat(parts)
