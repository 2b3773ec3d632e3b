"""Unconditional UNets in the latents of a VQ autoencoder, as in `LDMPipeline` (Rombach et al. 2022)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dataengine.errors import ModelRefused
from dataengine.treatment.families import autoencoder, ddim
from dataengine.treatment.families.lora import NoAdapter
from dataengine.treatment.families.quantization import Bits, loading_options
from dataengine.treatment.families.unconditional import UnconditionalFamily
from dataengine.treatment.families.weight_files import pipeline_variant


class LatentUnconditionalFamily(UnconditionalFamily):
    """See `families.GeneratorFamily` and `families.Refinable`. Prompts are ignored."""

    name: ClassVar[str] = "latent-unconditional"

    def __init__(self, pipeline: Any) -> None:
        """`pipeline` is a loaded `LDMPipeline` with its autoencoder in float32. Raises `ModelRefused` unless
        the UNet takes and answers the autoencoder's latents."""
        unet, latent = pipeline.unet.config, pipeline.vqvae.config.latent_channels
        if unet.in_channels != latent or unet.out_channels not in (latent, 2 * latent):
            raise ModelRefused(
                f"this UNet takes {unet.in_channels} and answers {unet.out_channels} channels, and latents "
                f"of its autoencoder have {latent}"
            )
        self.pipeline = pipeline
        self.adapter = NoAdapter(self.name)
        self._sampler = ddim.sampler(pipeline.scheduler, "this latent diffusion")

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype, bits: Bits | None = None) -> Self:
        """Load from a validated folder."""
        from diffusers import LDMPipeline

        pipeline = LDMPipeline.from_pretrained(
            folder,
            dtype={"vqvae": torch.float32, "default": dtype},
            use_safetensors=True,
            local_files_only=True,
            variant=pipeline_variant(folder),
            **loading_options("unet", bits, dtype),
        )
        return cls(pipeline)

    @property
    def _factor(self) -> int:
        return autoencoder.scale_factor(self.pipeline.vqvae)

    @property
    def size(self) -> tuple[int, int]:
        """The UNet's sample size in pixels."""
        height, width = super().size
        return height * self._factor, width * self._factor

    @property
    def multiple(self) -> int:
        """The UNet halves the latents between its levels."""
        return super().multiple * self._factor

    def modules(self) -> Mapping[str, nn.Module]:
        """UNet and autoencoder."""
        return {"unet": self.pipeline.unet, "vqvae": self.pipeline.vqvae}

    def initial_latents(self, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
        """The stock pipeline's noise for a list of CPU generators."""
        height, width = (side // self._factor for side in size)
        channels = self.pipeline.unet.config.in_channels
        return autoencoder.noise(list(seeds), (channels, height, width), self.device)

    def predict(self, latents: Tensor, times: Tensor, conditioning: Any, guidance: float) -> Tensor:
        """Noise ε; guidance does not apply."""
        return self.raw_output(latents, times, conditioning)[:, : latents.shape[1]]

    def decode(self, latents: Tensor) -> Tensor:
        """Images of clean latents through the codebook, which passes the gradient on unchanged."""
        vqvae = self.pipeline.vqvae
        unscaled = latents.float() / vqvae.config.scaling_factor
        return (vqvae.decode(unscaled, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Latents before the codebook, which `decode` applies."""
        vqvae = self.pipeline.vqvae
        encoded: Tensor = vqvae.encode(images.float() * 2 - 1).latents
        return encoded * vqvae.config.scaling_factor
