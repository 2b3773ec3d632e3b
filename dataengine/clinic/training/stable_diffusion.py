"""Training of the tiny Stable Diffusion: noise prediction over the shared VAE's latents, text encoder
included.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor, nn

from dataengine.clinic.config import PartConfig
from dataengine.clinic.models import clip_encoder, ddim_scheduler, stable_diffusion_unet
from dataengine.clinic.training.flux import CaptionedLatents
from dataengine.clinic.training.loop import Schedule, train
from dataengine.clinic.training.optimisers import Muon
from dataengine.clinic.vocabulary import clip_tokenizer
from dataengine.records import Report

CAPTION_DROPOUT = 0.1
"""Share of empty captions; classifier-free guidance needs them."""


class StableDiffusionTask:
    """Squared error of the predicted noise at uniform times."""

    def __init__(self, data: CaptionedLatents, shift: Tensor, batch: int, device: str) -> None:
        self._data, self._shift, self._batch, self._device = data, shift, batch, device
        self._scheduler = ddim_scheduler()
        self.unet = stable_diffusion_unet().to(memory_format=torch.channels_last)
        self.clip = clip_encoder(clip_tokenizer())
        self.module = nn.ModuleDict({"unet": self.unet, "clip": self.clip}).to(device)
        inner = [
            weight for name, weight in self.unet.named_parameters() if weight.ndim > 1 and "block" in name
        ]
        chosen = {id(weight) for weight in inner}
        others = [weight for weight in self.module.parameters() if id(weight) not in chosen]
        self.optimisers = [
            Muon(inner, lr=2e-3),
            torch.optim.AdamW(others, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.01),
        ]

    def loss(self) -> Tensor:
        rows = torch.randint(len(self._data.latents), (self._batch,))
        # The stock pipeline knows no shift_factor, so its latents keep their mean.
        latents = self._data.latents[rows].float() + self._shift
        captions = torch.where(torch.rand(self._batch) < CAPTION_DROPOUT, len(self._data.latents), rows)
        noise = torch.randn(latents.shape)
        time = torch.randint(self._scheduler.config.num_train_timesteps, (self._batch,))
        mixed = self._scheduler.add_noise(latents, noise, time).to(self._device)
        # On CPUs convolutions this narrow are faster in single precision.
        with torch.autocast("cuda", torch.bfloat16, enabled=self._device != "cpu"):
            text = self.clip(self._data.clip_ids[captions].to(self._device))[0]
            predicted = self.unet(mixed, time.to(self._device), text).sample
        return (predicted.float() - noise.to(self._device)).pow(2).mean()


def train_stable_diffusion(
    config: PartConfig,
    data: CaptionedLatents,
    vae: AutoencoderKL,
    device: str,
    work: Path,
    report: Report,
    checkpoint_seconds: float,
) -> StableDiffusionPipeline:
    """Trained on the generator's data, artifacts included."""
    torch.manual_seed(config.seed)
    shift = torch.tensor(vae.config.shift_factor * vae.config.scaling_factor)
    task = StableDiffusionTask(data, shift, config.batch, device)
    train(task, Schedule(config.steps, decay_from=0.45), work, report, checkpoint_seconds)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=task.clip,
        tokenizer=clip_tokenizer(),
        unet=task.unet.to(memory_format=torch.contiguous_format),
        scheduler=ddim_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
