"""FLUX.1 (schnell, dev) and every model of diffusers' `FluxPipeline`: flow matching, CLIP + T5.

Latents stay NCHW outside; only the transformer sees them packed into 2 × 2 patches.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from dataengine.errors import ModelRefused
from dataengine.treatment.families import autoencoder
from dataengine.treatment.families.catalog import FAMILIES
from dataengine.treatment.families.diffusion import Conditioning, Prediction, Schedule, prompts_beyond
from dataengine.treatment.families.lora import Adapter
from dataengine.treatment.families.quantization import Bits, loading_options
from dataengine.treatment.families.schedulers import flow_scheduler
from dataengine.treatment.families.weight_files import pipeline_variant

SCHNELL_TOKENS = 256
DEV_TOKENS = 512
"""Longest prompts in T5 tokens, as the models were distilled; a tokenizer may set a lower limit."""

DEV_GUIDANCE = 3.5

TARGETS = {
    "attention": r".*\.(to_[qkv]|to_out\.0)",
    "all": r".*\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out|proj_mlp|net\.0\.proj|net\.2)"
    r"|single_transformer_blocks\.\d+\.proj_out",
}


class FluxFamily:
    """See `families.GeneratorFamily`."""

    name: ClassVar[str] = "flux"
    prediction: Prediction = "flow"
    distilled: bool = False

    def __init__(self, pipeline: Any) -> None:
        """`pipeline` is a loaded `FluxPipeline` with its VAE in float32."""
        pipeline.scheduler = flow_scheduler(pipeline.scheduler)
        latent, taken = pipeline.vae.config.latent_channels, pipeline.transformer.config.in_channels
        if taken != 4 * latent:
            raise ModelRefused(
                f"this FLUX transformer takes {taken} channels, and packed latents of its VAE have "
                f"{4 * latent}; models for inpainting and control are not supported"
            )
        self.pipeline = pipeline
        self.adapter = Adapter(pipeline, "transformer", TARGETS)
        self._guided = bool(pipeline.transformer.config.guidance_embeds)
        limit = DEV_TOKENS if self._guided else SCHNELL_TOKENS
        self.tokens = min(limit, pipeline.tokenizer_2.model_max_length)
        self.guidance = self.training_guidance = DEV_GUIDANCE if self._guided else 0.0

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype, bits: Bits | None = None) -> Self:
        """Load from a validated folder, with the denoiser quantised to `bits`."""
        from diffusers import FluxPipeline

        pipeline = FluxPipeline.from_pretrained(
            folder,
            dtype={"vae": torch.float32, "default": dtype},
            use_safetensors=True,
            local_files_only=True,
            variant=pipeline_variant(folder),
            **loading_options("transformer", bits, dtype),
            image_encoder=None,
            feature_extractor=None,
        )
        return cls(pipeline)

    @property
    def size(self) -> tuple[int, int]:
        """The VAE's sample size: 1024 for FLUX.1."""
        side = self.pipeline.vae.config.sample_size
        return side, side

    @property
    def multiple(self) -> int:
        """Latents are packed two by two."""
        return 2 * autoencoder.scale_factor(self.pipeline.vae)

    @property
    def device(self) -> torch.device:
        """The transformer's device."""
        return self.pipeline.transformer.device

    def modules(self) -> Mapping[str, nn.Module]:
        """Its four networks."""
        return {name: getattr(self.pipeline, name) for name in FAMILIES[self.name].networks}

    def to(self, device: torch.device | str) -> Self:
        """Move all networks."""
        self.pipeline.to(device)
        return self

    def use_checkpointing(self) -> None:
        """See `GeneratorFamily`."""
        self.pipeline.transformer.enable_gradient_checkpointing()
        self.pipeline.vae.enable_gradient_checkpointing()
        self.pipeline.vae.enable_slicing()

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """T5's sequence and CLIP's pooled vector."""
        sequence, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), None, device=self.device, max_sequence_length=self.tokens
        )
        return Conditioning({"sequence": sequence, "pooled": pooled})

    def blank_conditioning(self, count: int) -> Conditioning:
        """See `GeneratorFamily`."""
        config, dtype = self.pipeline.transformer.config, self.pipeline.transformer.dtype
        shapes = {
            "sequence": (count, self.tokens, config.joint_attention_dim),
            "pooled": (count, config.pooled_projection_dim),
        }
        return Conditioning({k: torch.zeros(v, device=self.device, dtype=dtype) for k, v in shapes.items()})

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Prompts beyond T5's limit; CLIP contributes a pooled vector only."""
        return prompts_beyond(prompts, self.pipeline.tokenizer_2, self.tokens)

    def initial_latents(self, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
        """The stock pipeline's noise for a list of CPU generators."""
        channels = self.pipeline.transformer.config.in_channels // 4
        height, width = (2 * (side // self.multiple) for side in size)
        return autoencoder.noise(list(seeds), (channels, height, width), self.device)

    def schedule(self, steps: int, latents: Tensor) -> Schedule:
        """The scheduler's own sigmas; the dynamic shift, where it is on, depends on the size."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        scheduler, config = self.pipeline.scheduler, self.pipeline.scheduler.config
        mu = calculate_shift(
            latents.shape[-2] * latents.shape[-1] // 4,
            config.base_image_seq_len,
            config.max_image_seq_len,
            config.base_shift,
            config.max_shift,
        )
        sigmas = None if config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
        scheduler.set_timesteps(steps, device=latents.device, sigmas=sigmas, mu=mu)
        times = scheduler.timesteps / config.num_train_timesteps
        sigma, next_sigma = scheduler.sigmas[:-1], scheduler.sigmas[1:]
        return Schedule(
            times=times, alpha=1 - sigma, sigma=sigma, next_alpha=1 - next_sigma, next_sigma=next_sigma
        )

    def random_times(self, count: int, rng: torch.Generator) -> Tensor:
        """Uniform in [0, 1)."""
        return torch.rand(count, generator=rng)

    def levels(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Rectified flow: (1 − t, t)."""
        return 1 - times, times

    def predict(self, latents: Tensor, times: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        """Velocity ε − x_0. `guidance` affects models with embedded guidance only."""
        transformer = self.pipeline.transformer
        height, width = latents.shape[-2:]
        dtype = transformer.dtype
        output = transformer(
            hidden_states=pack(latents).to(dtype),
            timestep=times.to(latents.device, dtype),
            guidance=times.new_full((len(latents),), guidance).to(latents.device) if self._guided else None,
            pooled_projections=conditioning["pooled"],
            encoder_hidden_states=conditioning["sequence"],
            txt_ids=torch.zeros(conditioning["sequence"].shape[1], 3, device=latents.device, dtype=dtype),
            img_ids=position_ids(height // 2, width // 2).to(latents.device, dtype),
            return_dict=False,
        )[0]
        return unpack(output.float(), height, width)

    def decode(self, latents: Tensor) -> Tensor:
        """See `GeneratorFamily`."""
        vae = self.pipeline.vae
        return autoencoder.decode(vae, latents, vae.config.shift_factor or 0.0)

    def encode_images(self, images: Tensor) -> Tensor:
        """See `GeneratorFamily`."""
        vae = self.pipeline.vae
        return autoencoder.encode(vae, images, vae.config.shift_factor or 0.0)


def pack(latents: Tensor) -> Tensor:
    """NCHW as the transformer's sequence of 2 × 2 patches, (N, H/2·W/2, 4C)."""
    n, channels, height, width = latents.shape
    patches = latents.reshape(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(n, height * width // 4, 4 * channels)


def unpack(sequence: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`."""
    n, _, channels = sequence.shape
    patches = sequence.reshape(n, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(n, channels // 4, height, width)


def position_ids(rows: int, columns: int) -> Tensor:
    """(rows·columns, 3): zero, row, column of every patch, for the rotary embedding."""
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    return torch.cat([torch.zeros(len(grid), 1, dtype=grid.dtype), grid], dim=1).float()
