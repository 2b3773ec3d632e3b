"""Training of the judge and the teacher on unlimited exact pairs, half of them round-tripped through the
VAE.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from dataengine.clinic.config import PartConfig
from dataengine.clinic.training.data import Drawings, render, round_trip, to_float
from dataengine.clinic.training.loop import Schedule, train
from dataengine.clinic.world import Stream, stream
from dataengine.records import Report

Network = TypeVar("Network", bound=nn.Module)

LATENT_NOISE = 0.12
LARGEST_SHIFT = 4


class SegmentationTask:
    """Binary cross-entropy on exact masks, with jitter of colour and position.

    `images` uint8 [N, 3, 64, 64]: the first half was round-tripped through the VAE. Batches take half of
    their images from each half.
    """

    def __init__(
        self, module: nn.Module, drawings: Drawings, batch: int, device: str, rate: float = 1.2e-3
    ) -> None:
        self.module = module.to(device).to(memory_format=torch.channels_last)
        self._drawings, self._batch, self._device = drawings, batch, device
        self.optimisers = [torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.01)]

    def loss(self) -> Tensor:
        images, masks = self._draw_batch()
        with torch.autocast(torch.device(self._device).type, torch.bfloat16):
            logits = self.module(images)
        return F.binary_cross_entropy_with_logits(logits.float(), masks)

    def _draw_batch(self) -> tuple[Tensor, Tensor]:
        half = len(self._drawings.images) // 2
        rows = torch.cat(
            [
                torch.randint(half, (self._batch // 2,)),
                torch.randint(half, (self._batch - self._batch // 2,)) + half,
            ]
        )
        images, masks = jitter(to_float(self._drawings.images[rows]), self._drawings.masks[rows].float())
        return images.to(self._device), masks.to(self._device)


def jitter(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Contrast, colour cast, grain, and one common shift of up to four pixels with mirrored borders."""
    n = len(images)
    contrast, cast = 1 + 0.06 * torch.randn(n, 1, 1, 1), 0.025 * torch.randn(n, 3, 1, 1)
    grain = 0.01 * torch.rand(n, 1, 1, 1) * torch.randn_like(images)
    images = (images - 0.5) * contrast + 0.5 + cast + grain
    reach, side = LARGEST_SHIFT, images.shape[-1]
    down, right = (int(v) for v in torch.randint(2 * reach + 1, (2,)))
    together = F.pad(torch.cat([images, masks[:, None]], 1), (reach,) * 4, mode="reflect")
    together = together[..., down : down + side, right : right + side]
    return together[:, :3], together[:, 3]


def exact_pairs(source: Stream, count: int, vae: AutoencoderKL, report: Report) -> Drawings:
    """The first `count` drawings of a stream; the first half round-tripped with latent noise."""
    drawings = render(source, range(count))
    report(0, count, "round trips through the VAE")
    half = count // 2
    images = torch.cat([round_trip(vae, drawings.images[:half], LATENT_NOISE), drawings.images[half:]])
    return Drawings(images, drawings.masks, drawings.captions, drawings.shown)


def train_oracle(
    architecture: Callable[[], Network],
    use: str,
    config: PartConfig,
    vae: AutoencoderKL,
    device: str,
    work: Path,
    report: Report,
    checkpoint_seconds: float,
) -> Network:
    """Train an oracle of an architecture (images to logits) on the stream of `use`."""
    torch.manual_seed(config.seed)
    drawings = exact_pairs(stream(use), config.drawings, vae, report)
    torch.manual_seed(config.seed)
    module = architecture()
    task = SegmentationTask(module, drawings, config.batch, device)
    train(task, Schedule(config.steps, ema=0.99), work, report, checkpoint_seconds)
    return module.to(memory_format=torch.contiguous_format)
