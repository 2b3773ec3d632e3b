"""What treatment needs of a generator, whatever pipeline is behind it.

A family turns prompts into conditioning and pixels into latents and back, and predicts noise or
velocity. Sampling, objectives and tuning are plain functions over that. What each family states about itself
is in `catalog`.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dataengine.treatment.config import LoraSettings
from dataengine.treatment.families.diffusion import Conditioning, Prediction, Schedule


class LoraAdapter(Protocol):
    """The one LoRA of a generator's denoiser, in and out in diffusers' own keys."""

    def add(self, settings: LoraSettings, seed: int) -> None:
        """Attach a new, trainable one that changes nothing yet."""

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Its matrices by name, in a fixed order; empty without one."""

    def save(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors`, which `load_lora_weights` of the stock pipeline reads."""

    def load(self, folder: Path, trainable: bool = False) -> None:
        """Attach a saved one. Raises `ModelRefused` when it belongs to another base or is no safetensors
        file."""

    def disabled(self) -> AbstractContextManager[None]:
        """Within it the base draws as if nothing were attached."""


class GeneratorFamily(Protocol):
    """A text-to-image diffusion pipeline. Latents are float32 NCHW, images float32 N3HW RGB in [0, 1]."""

    @property
    def name(self) -> str:
        """Name of the family, its key in `catalog.FAMILIES`."""

    @property
    def prediction(self) -> Prediction:
        """What the model answers with."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model was made for."""

    @property
    def multiple(self) -> int:
        """Sizes in pixels must be multiples of this."""

    @property
    def guidance(self) -> float:
        """Guidance scale for sampling unless another is asked for."""

    @property
    def training_guidance(self) -> float:
        """Guidance scale under which the ordinary diffusion loss is taken: no extrapolation."""

    @property
    def adapter(self) -> LoraAdapter:
        """Its LoRA."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def modules(self) -> Mapping[str, nn.Module]:
        """Its networks by component name."""

    def to(self, device: torch.device | str) -> Any:
        """Move all networks."""

    def use_checkpointing(self) -> None:
        """Recompute activations in backward instead of keeping them, block by block, and in the VAE image by
        image."""

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of the prompts, without gradient."""

    def blank(self, count: int) -> Conditioning:
        """Conditioning of the right shapes and without meaning, for estimates."""

    def cut(self, prompts: Sequence[str]) -> list[str]:
        """Those prompts whose end is beyond the model's limit, and is left out by `encode_prompts`."""

    def initial_latents(self, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
        """Standard Gaussian noise, one image per seed, independent of the other seeds."""

    def schedule(self, steps: int, latents: Tensor) -> Schedule:
        """The sampling chain for latents of that size."""

    def random_times(self, count: int, rng: torch.Generator) -> Tensor:
        """Uniformly random training times, shape (count,)."""

    def levels(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """(α_t, σ_t) of such times, each of shape (N,)."""

    def predict(self, latents: Tensor, times: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        """The model's answer for x_t, float32, of the latents' shape; `times` has shape (N,)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images of clean latents, with gradient, by the float32 VAE."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Clean latents of images (the posterior's mean), without gradient."""


@runtime_checkable
class Refinable(GeneratorFamily, Protocol):
    """A family whose whole denoiser can be trained by noise prediction (see `refining`)."""

    @property
    def pipeline(self) -> Any:
        """The stock pipeline, which is saved with the trained network in it."""

    @property
    def denoiser(self) -> nn.Module:
        """The network that is trained."""

    @property
    def betas(self) -> Tensor:
        """β_t of the training noise, shape (T,)."""

    def answer(self, latents: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's own answer for x_t, float32: the noise and, where it learns its variance, as many
        channels again behind it. `times` has shape (N,)."""
