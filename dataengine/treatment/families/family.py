"""The interface of generators for treatment, independent of their pipeline.

A family encodes prompts to conditioning and pixels to latents and back, and predicts noise or velocity.
Sampling, objectives and tuning are plain functions over it. The metadata of each family is in `catalog`.
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
    """The LoRA of a generator's denoiser, loaded and saved in diffusers' own keys."""

    @property
    def reader(self) -> str:
        """What reads a saved LoRA into a stock pipeline, such as "FluxPipeline.load_lora_weights"."""

    def add(self, settings: LoraSettings, seed: int) -> None:
        """Attach a new, trainable LoRA that does not change the output yet."""

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Its matrices by name, in a fixed order; empty without a LoRA."""

    def save(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors`, which `load_lora_weights` of the stock pipeline reads."""

    def load(self, folder: Path, trainable: bool = False) -> None:
        """Attach a saved LoRA. Raises `ModelRefused` when it belongs to another base or is no safetensors
        file."""

    def disabled(self) -> AbstractContextManager[None]:
        """Context in which the base generates without the LoRA."""


class GeneratorFamily(Protocol):
    """A text-to-image diffusion pipeline. Latents are float32 NCHW, images float32 N3HW RGB in [0, 1]."""

    @property
    def name(self) -> str:
        """Name of the family, its key in `catalog.FAMILIES`."""

    @property
    def prediction(self) -> Prediction:
        """Kind of the model's output."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model was trained for."""

    @property
    def multiple(self) -> int:
        """Height and width in pixels must be multiples of this."""

    @property
    def guidance(self) -> float:
        """Default guidance scale for sampling."""

    @property
    def training_guidance(self) -> float:
        """Guidance scale for the ordinary diffusion loss: no extrapolation."""

    distilled: bool
    """Whether it is distilled to few steps, so that the ordinary diffusion loss would undo its distillation;
    set from its registration."""

    @property
    def adapter(self) -> LoraAdapter:
        """Its LoRA."""

    @property
    def device(self) -> torch.device:
        """Its device."""

    def modules(self) -> Mapping[str, nn.Module]:
        """Its networks by component name."""

    def to(self, device: torch.device | str) -> Any:
        """Move all networks."""

    def use_checkpointing(self) -> None:
        """Switch gradient checkpointing: recompute activations in backward, block by block, and in the VAE
        image by image."""

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of the prompts, without gradient."""

    def blank_conditioning(self, count: int) -> Conditioning:
        """Placeholder conditioning of the right shapes, for estimates."""

    def truncated(self, prompts: Sequence[str]) -> list[str]:
        """The prompts that exceed the model's limit, and are truncated by `encode_prompts`."""

    def initial_latents(self, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
        """Standard Gaussian noise, one image per seed, independent of the other seeds."""

    def schedule(self, steps: int, latents: Tensor) -> Schedule:
        """The sampling chain for latents of that size."""

    def random_times(self, count: int, rng: torch.Generator) -> Tensor:
        """Uniformly random training times, shape (count,)."""

    def levels(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """(α_t, σ_t) of training times, each of shape (N,)."""

    def predict(self, latents: Tensor, times: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
        """The model's output for x_t, float32, of the latents' shape; `times` has shape (N,)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images of clean latents, with gradient, by the float32 VAE."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Clean latents of images (the posterior's mean), without gradient."""


@runtime_checkable
class Refinable(GeneratorFamily, Protocol):
    """A family whose whole denoiser can be trained by noise prediction (see `refining`)."""

    @property
    def pipeline(self) -> Any:
        """The stock pipeline, which is saved with the trained network."""

    @property
    def denoiser(self) -> nn.Module:
        """The network that is trained."""

    @property
    def betas(self) -> Tensor:
        """β_t of the training noise, shape (T,)."""

    def raw_output(self, latents: Tensor, times: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's raw output for x_t, float32: the noise and, if it learns its variance, as many
        further channels. `times` has shape (N,)."""
