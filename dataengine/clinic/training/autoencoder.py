"""Training of the VAE."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dataengine.clinic.config import PartConfig
from dataengine.clinic.models import autoencoder
from dataengine.clinic.training.data import Drawings, encode, render, to_float
from dataengine.clinic.training.loop import Schedule, train
from dataengine.clinic.training.optimisers import Muon
from dataengine.clinic.world import stream
from dataengine.records import Report

KL_WEIGHT = 6e-4
SCALE_SAMPLES = 512


class AutoencoderTask:
    """Reconstruction (L1, L1 of the gradients, squared error) and a little Kullback-Leibler divergence."""

    def __init__(self, drawings: Drawings, batch: int, device: str) -> None:
        self._images, self._batch, self._device = drawings.images, batch, device
        self.module: AutoencoderKL = autoencoder().to(device, memory_format=torch.channels_last)
        inner = [
            w
            for n, w in self.module.named_parameters()
            if w.ndim == 4 and "conv_in" not in n and "conv_out" not in n
        ]
        chosen = {id(weight) for weight in inner}
        others = [weight for weight in self.module.parameters() if id(weight) not in chosen]
        self.optimisers = [
            Muon(inner, lr=2.5e-3, weight_decay=0.02),
            torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=1e-4),
        ]

    def loss(self) -> Tensor:
        rows = torch.randint(len(self._images), (self._batch,))
        x = to_float(self._images[rows]).to(self._device) * 2 - 1
        with torch.autocast(torch.device(self._device).type, torch.bfloat16):
            posterior = self.module.encode(x).latent_dist
        mean, log_variance = posterior.mean.float(), posterior.logvar.float().clamp(-12, 4)
        latents = mean + torch.randn(mean.shape).to(mean.device) * (log_variance / 2).exp()
        with torch.autocast(torch.device(self._device).type, torch.bfloat16):
            decoded = self.module.decode(latents).sample
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        return reconstruction_loss(decoded.float() - x) + KL_WEIGHT * divergence


def reconstruction_loss(error: Tensor) -> Tensor:
    """Mean absolute error, half of that of its differences between neighbours, and four times the squared
    error.
    """
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    edges = across.abs().mean() + down.abs().mean()
    return error.abs().mean() + 0.5 * edges + 4 * error.pow(2).mean()


def train_autoencoder(
    config: PartConfig, device: str, work: Path, report: Report, checkpoint_seconds: float
) -> AutoencoderKL:
    """The trained VAE, with scale and shift set so that its latents have mean 0 and deviation 1."""
    torch.manual_seed(config.seed)
    drawings = render(stream("autoencoder"), range(config.drawings))
    task = AutoencoderTask(drawings, config.batch, device)
    train(task, Schedule(config.steps, warmup=40, ema=0.995), work, report, checkpoint_seconds)
    latents = encode(task.module, drawings.images[:SCALE_SAMPLES])
    task.module.register_to_config(
        scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item()
    )
    return task.module
