"""Stable Diffusion 1.x and every model of diffusers' `StableDiffusionPipeline`: ε-prediction, DDIM, CLIP."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dataengine.errors import ModelRefused
from dataengine.treatment.families import autoencoder, ddim
from dataengine.treatment.families.catalog import FAMILIES
from dataengine.treatment.families.diffusion import Conditioning, Prediction, Schedule, prompts_beyond
from dataengine.treatment.families.lora import Adapter
from dataengine.treatment.families.quantization import Bits, loading_options
from dataengine.treatment.families.weight_files import pipeline_variant

GUIDANCE = 7.5

TARGETS = {
    "attention": r".*attn[12]\.(to_[qkv]|to_out\.0)",
    "all": r".*(attn[12]\.(to_[qkv]|to_out\.0)|ff\.net\.0\.proj|ff\.net\.2)",
}


class StableDiffusionFamily:
    """See `families.GeneratorFamily`. Samples with DDIM (η = 0) whatever scheduler the folder names."""

    name: ClassVar[str] = "stable-diffusion"
    prediction: Prediction = "epsilon"
    guidance: float = GUIDANCE
    training_guidance: float = 1.0
    distilled: bool = False

    def __init__(self, pipeline: Any) -> None:
        """`pipeline` is a loaded `StableDiffusionPipeline` with its VAE in float32. Its scheduler
        becomes DDIM."""
        pipeline.scheduler = ddim.sampler(pipeline.scheduler, "this Stable Diffusion")
        if pipeline.unet.config.time_cond_proj_dim:
            raise ModelRefused("this Stable Diffusion embeds its guidance; expected plain noise prediction")
        autoencoder.require_channels(pipeline.vae, pipeline.unet.config, "UNet")
        self.pipeline = pipeline
        self.adapter = Adapter(pipeline, "unet", TARGETS)

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype, bits: Bits | None = None) -> Self:
        """Load from a validated folder, with the denoiser quantised to `bits`."""
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype={"vae": torch.float32, "default": dtype},
            use_safetensors=True,
            local_files_only=True,
            variant=pipeline_variant(folder),
            **loading_options("unet", bits, dtype),
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
        )
        return cls(pipeline)

    @property
    def size(self) -> tuple[int, int]:
        """The UNet's sample size in pixels: 512 for SD 1.x."""
        side = self.pipeline.unet.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return height * self._factor, width * self._factor

    @property
    def _factor(self) -> int:
        return autoencoder.scale_factor(self.pipeline.vae)

    @property
    def multiple(self) -> int:
        """The UNet halves the latents between its levels."""
        return self._factor * 2 ** (len(self.pipeline.unet.config.block_out_channels) - 1)

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
        return self.pipeline.scheduler.betas

    def modules(self) -> Mapping[str, nn.Module]:
        """Its networks."""
        return {name: getattr(self.pipeline, name) for name in FAMILIES[self.name].networks}

    def to(self, device: torch.device | str) -> Self:
        """Move all networks."""
        self.pipeline.to(device)
        return self

    def use_checkpointing(self) -> None:
        """See `GeneratorFamily`."""
        self.pipeline.unet.enable_gradient_checkpointing()
        self.pipeline.vae.enable_gradient_checkpointing()
        self.pipeline.vae.enable_slicing()

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """CLIP's sequence, and that of the empty prompt for classifier-free guidance."""
        sequence, empty = self.pipeline.encode_prompt(
            list(prompts), self.device, num_images_per_prompt=1, do_classifier_free_guidance=True
        )
        return Conditioning({"sequence": sequence, "empty": empty})

    def blank_conditioning(self, count: int) -> Conditioning:
        """See `GeneratorFamily`."""
        unet = self.pipeline.unet
        shape = (count, self.pipeline.tokenizer.model_max_length, unet.config.cross_attention_dim)
        sequence = torch.zeros(shape, device=self.device, dtype=unet.dtype)
        return Conditioning({"sequence": sequence, "empty": sequence})

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """Prompts beyond CLIP's limit."""
        return prompts_beyond(prompts, self.pipeline.tokenizer, self.pipeline.tokenizer.model_max_length)

    def initial_latents(self, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
        """The stock pipeline's noise for a list of CPU generators."""
        height, width = (side // self._factor for side in size)
        channels = self.pipeline.unet.config.in_channels
        return autoencoder.noise(list(seeds), (channels, height, width), self.device)

    def schedule(self, steps: int, latents: Tensor) -> Schedule:
        """See `ddim.schedule`."""
        return ddim.schedule(self.pipeline.scheduler, steps, latents.device)

    def random_times(self, count: int, rng: torch.Generator) -> Tensor:
        """Uniform integer timesteps."""
        return ddim.random_times(self.pipeline.scheduler, count, rng)

    def levels(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """(√ᾱ_t, √(1 − ᾱ_t))."""
        return ddim.levels(self.pipeline.scheduler, times)

    def predict(self, latents: Tensor, times: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        """Noise ε; with `guidance` above 1 extrapolated from the empty prompt's (Ho & Salimans 2022)."""
        if guidance <= 1:
            return self._raw_output(latents, times, conditioning, "sequence")
        both = torch.cat([latents, latents]), torch.cat([times, times])
        plain, prompted = self._raw_output(*both, conditioning, "empty", "sequence").chunk(2)
        return plain + guidance * (prompted - plain)

    def raw_output(self, latents: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Refinable`."""
        return self._raw_output(latents, times, conditioning, "sequence")

    def _raw_output(
        self, latents: Tensor, times: Tensor, conditioning: Conditioning, *sequences: str
    ) -> Tensor:
        """The UNet's raw output, float32; `sequences` names the conditioning of each row of latents."""
        unet = self.pipeline.unet
        return unet(
            latents.to(unet.dtype),
            times.to(latents.device),
            encoder_hidden_states=torch.cat([conditioning[name] for name in sequences]),
            added_cond_kwargs=self._added(latents, conditioning, sequences),
            return_dict=False,
        )[0].float()

    def _added(
        self, latents: Tensor, conditioning: Conditioning, sequences: Sequence[str]
    ) -> dict[str, Tensor] | None:
        """Additional conditioning of the UNet; none here."""
        return None

    def decode(self, latents: Tensor) -> Tensor:
        """See `GeneratorFamily`. The stock pipeline ignores the VAE's shift, so it is ignored here."""
        return autoencoder.decode(self.pipeline.vae, latents, shift=0.0)

    def encode_images(self, images: Tensor) -> Tensor:
        """See `GeneratorFamily`."""
        return autoencoder.encode(self.pipeline.vae, images, shift=0.0)
