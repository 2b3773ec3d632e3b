"""Diffusion transformers, as diffusers' `DiTPipeline` loads them: latents, noise prediction, classes.

A prompt is a class: a number, a name from the pipeline's labels, or "" for the null class.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from dataengine.errors import ConfigRefused
from dataengine.treatment.families import autoencoder, ddim
from dataengine.treatment.families.diffusion import Conditioning, Prediction, Schedule
from dataengine.treatment.families.lora import NoAdapter
from dataengine.treatment.families.quantization import Bits, loading_options
from dataengine.treatment.families.weight_files import pipeline_variant

GUIDANCE = 4.0
SHOWN = 3


class DiTFamily:
    """See `families.GeneratorFamily` and `families.Refinable`. Samples with DDIM (η = 0)."""

    name: ClassVar[str] = "dit"
    prediction: Prediction = "epsilon"
    guidance: float = GUIDANCE
    training_guidance: float = 1.0
    distilled: bool = False

    def __init__(self, pipeline: Any) -> None:
        """`pipeline` is a loaded `DiTPipeline` with its VAE in float32. Its scheduler becomes DDIM."""
        pipeline.scheduler = ddim.sampler(pipeline.scheduler, "this DiT")
        autoencoder.require_channels(pipeline.vae, pipeline.transformer.config, "transformer")
        self.pipeline = pipeline
        self._labels: Mapping[str, int] = getattr(pipeline, "labels", None) or {}
        if self._labels:
            # The stock pipeline does not keep them when it is saved.
            names = {number: name for name, number in self._labels.items()}
            pipeline.register_to_config(id2label=names)
        self.adapter = NoAdapter(self.name)

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype, bits: Bits | None = None) -> Self:
        """Load from a validated folder, with the denoiser quantised to `bits`."""
        from diffusers import DiTPipeline

        pipeline = DiTPipeline.from_pretrained(
            folder,
            dtype={"vae": torch.float32, "default": dtype},
            use_safetensors=True,
            local_files_only=True,
            variant=pipeline_variant(folder),
            **loading_options("transformer", bits, dtype),
        )
        return cls(pipeline)

    @property
    def size(self) -> tuple[int, int]:
        """The transformer's sample size in pixels."""
        side = self.pipeline.transformer.config.sample_size * self._factor
        return side, side

    @property
    def _factor(self) -> int:
        return autoencoder.scale_factor(self.pipeline.vae)

    @property
    def multiple(self) -> int:
        """The transformer works on patches."""
        return self._factor * self.pipeline.transformer.config.patch_size

    @property
    def device(self) -> torch.device:
        """The transformer's device."""
        return self.pipeline.transformer.device

    @property
    def denoiser(self) -> nn.Module:
        """See `Refinable`."""
        return self.pipeline.transformer

    @property
    def betas(self) -> Tensor:
        """See `Refinable`."""
        return self.pipeline.scheduler.betas

    def modules(self) -> Mapping[str, nn.Module]:
        """Its networks."""
        return {"transformer": self.pipeline.transformer, "vae": self.pipeline.vae}

    def to(self, device: torch.device | str) -> Self:
        """Move all networks."""
        self.pipeline.to(device)
        return self

    def use_checkpointing(self) -> None:
        """See `GeneratorFamily`."""
        self.pipeline.transformer.enable_gradient_checkpointing()
        self.pipeline.vae.enable_gradient_checkpointing()

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Class indices. Raises `ConfigRefused` for a prompt that is no class."""
        return Conditioning({"class": torch.tensor([*map(self._class_of, prompts)], device=self.device)})

    def _class_of(self, prompt: str) -> int:
        labels, text = self._labels, prompt.strip()
        if not text:
            return self._none
        if text in labels:
            return labels[text]
        if text.isdigit() and int(text) < self._none:
            return int(text)
        named = f"; its names are {', '.join(list(labels)[:SHOWN])}, …" if labels else ""
        raise ConfigRefused(
            f"there is no class {prompt!r} in this generator: give a number below {self._none}{named}"
        )

    @property
    def _none(self) -> int:
        """The null class."""
        return int(self.pipeline.transformer.config.num_embeds_ada_norm)

    def blank_conditioning(self, count: int) -> Conditioning:
        """See `GeneratorFamily`."""
        return self.encode_prompts([""] * count)

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """None: class prompts have no limit."""
        return []

    def initial_latents(self, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
        """The stock pipeline's noise for a list of CPU generators. Raises `ConfigRefused` unless square."""
        height, width = (side // self._factor for side in size)
        if height != width:
            raise ConfigRefused(
                f"a DiT generates square images only; set equal height and width, not {size[0]}×{size[1]}"
            )
        channels = self.pipeline.transformer.config.in_channels
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
        """Noise ε; with `guidance` above 1 extrapolated from that of the null class (Ho & Salimans 2022)."""
        if guidance <= 1:
            return self.raw_output(latents, times, conditioning)[:, : latents.shape[1]]
        both_classes = Conditioning.joined([self.blank_conditioning(len(latents)), conditioning])
        both = self.raw_output(torch.cat([latents, latents]), torch.cat([times, times]), both_classes)
        plain, asked = both[:, : latents.shape[1]].chunk(2)
        return plain + guidance * (asked - plain)

    def raw_output(self, latents: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Refinable`."""
        transformer = self.pipeline.transformer
        return transformer(
            latents.to(transformer.dtype),
            timestep=times.to(latents.device),
            class_labels=conditioning["class"],
            return_dict=False,
        )[0].float()

    def decode(self, latents: Tensor) -> Tensor:
        """See `GeneratorFamily`. The stock pipeline ignores the VAE's shift, so it is ignored here."""
        return autoencoder.decode(self.pipeline.vae, latents, shift=0.0)

    def encode_images(self, images: Tensor) -> Tensor:
        """See `GeneratorFamily`."""
        return autoencoder.encode(self.pipeline.vae, images, shift=0.0)
