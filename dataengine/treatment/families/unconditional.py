"""Unconditional UNets in pixels, by diffusers' `DDPMPipeline` and `DDIMPipeline`: DDPM and improved DDPM.

Prompts are ignored. A UNet that learns its variance (Nichol & Dhariwal 2021) has twice the output channels;
DDIM, which samples all images here, uses the first half.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dataengine.errors import ModelRefused
from dataengine.treatment.config import UNetConfig
from dataengine.treatment.families import autoencoder, ddim
from dataengine.treatment.families.diffusion import Conditioning, Prediction, Schedule
from dataengine.treatment.families.lora import NoAdapter
from dataengine.treatment.families.quantization import Bits, loading_options
from dataengine.treatment.families.weight_files import pipeline_variant

RGB = 3


class UnconditionalFamily:
    """See `families.GeneratorFamily` and `families.Refinable`."""

    name: ClassVar[str] = "unconditional"
    prediction: Prediction = "epsilon"
    guidance: float = 1.0
    training_guidance: float = 1.0
    distilled: bool = False

    def __init__(self, pipeline: Any) -> None:
        """`pipeline` is a loaded `DDPMPipeline`. Raises `ModelRefused` unless it generates RGB."""
        config = pipeline.unet.config
        if config.in_channels != RGB or config.out_channels not in (RGB, 2 * RGB):
            raise ModelRefused(
                f"this UNet has {config.in_channels} and {config.out_channels} channels; expected "
                "3 input (RGB) and 3 or, with a learned variance, 6 output channels"
            )
        self.pipeline = pipeline
        self.adapter = NoAdapter(self.name)
        self._sampler = ddim.sampler(pipeline.scheduler, "this DDPM")

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype, bits: Bits | None = None) -> Self:
        """Load from a validated folder."""
        from diffusers import DDPMPipeline

        pipeline = DDPMPipeline.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            variant=pipeline_variant(folder),
            **loading_options("unet", bits, dtype),
        )
        return cls(pipeline)

    @property
    def size(self) -> tuple[int, int]:
        """The UNet's sample size."""
        side = self.pipeline.unet.config.sample_size
        return (side, side) if isinstance(side, int) else tuple(side)

    @property
    def multiple(self) -> int:
        """The UNet halves the image between its levels."""
        return 2 ** (len(self.pipeline.unet.config.block_out_channels) - 1)

    @property
    def device(self) -> torch.device:
        """The UNet's device."""
        return self.pipeline.unet.device

    @property
    def denoiser(self) -> nn.Module:
        """See `Refinable`."""
        return self.pipeline.unet

    @property
    def betas(self) -> Tensor:
        """See `Refinable`."""
        return self._sampler.betas

    def modules(self) -> Mapping[str, nn.Module]:
        """The UNet alone."""
        return {"unet": self.pipeline.unet}

    def to(self, device: torch.device | str) -> Self:
        """Move it."""
        self.pipeline.to(device)
        return self

    def use_checkpointing(self) -> None:
        """See `GeneratorFamily`."""
        self.pipeline.unet.enable_gradient_checkpointing()

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Empty conditioning for that many images."""
        return self.blank_conditioning(len(prompts))

    def blank_conditioning(self, count: int) -> Conditioning:
        """See `GeneratorFamily`."""
        return Conditioning({"nothing": torch.zeros(count, 0, device=self.device)})

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """None: prompts are ignored."""
        return []

    def initial_latents(self, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
        """The stock pipeline's noise for a list of CPU generators."""
        return autoencoder.noise(list(seeds), (RGB, *size), self.device)

    def schedule(self, steps: int, latents: Tensor) -> Schedule:
        """See `ddim.schedule`."""
        return ddim.schedule(self._sampler, steps, latents.device)

    def random_times(self, count: int, rng: torch.Generator) -> Tensor:
        """Uniform integer timesteps."""
        return ddim.random_times(self._sampler, count, rng)

    def levels(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """(√ᾱ_t, √(1 − ᾱ_t))."""
        return ddim.levels(self._sampler, times)

    def predict(self, latents: Tensor, times: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        """Noise ε; guidance does not apply."""
        return self.raw_output(latents, times, conditioning)[:, :RGB]

    def raw_output(self, latents: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Refinable`."""
        unet = self.pipeline.unet
        return unet(latents.to(unet.dtype), times.to(latents.device), return_dict=False)[0].float()

    def decode(self, latents: Tensor) -> Tensor:
        """Latents are pixels in [-1, 1]."""
        return (latents.float() / 2 + 0.5).clamp(0, 1)

    def encode_images(self, images: Tensor) -> Tensor:
        """See `decode`."""
        return images.float() * 2 - 1


def new_unet_family(config: UNetConfig, seed: int) -> UnconditionalFamily:
    """A new UNet with random weights by the seed, frozen."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    learned = config.variance == "learned"
    seeing = [level >= config.attention for level in range(len(config.channels))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=config.side,
            out_channels=2 * RGB if learned else RGB,
            block_out_channels=config.channels,
            down_block_types=tuple("AttnDownBlock2D" if sees else "DownBlock2D" for sees in seeing),
            up_block_types=tuple("AttnUpBlock2D" if sees else "UpBlock2D" for sees in reversed(seeing)),
            layers_per_block=config.layers,
            norm_num_groups=8,
            attention_head_dim=8,
            dropout=config.dropout,
        )
    scheduler = DDPMScheduler(
        beta_schedule=config.betas,
        variance_type="learned_range" if learned else "fixed_small",
        clip_sample=True,
    )
    return UnconditionalFamily(DDPMPipeline(unet=unet.requires_grad_(False).eval(), scheduler=scheduler))
