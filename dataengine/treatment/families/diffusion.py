"""The common form of noise and flow prediction: x_t = α_t·x_0 + σ_t·ε.

ε-prediction: α_t = √ᾱ_t, σ_t = √(1 − ᾱ_t), the model predicts ε (DDPM, DDIM). Flow matching: α_t = 1 − t,
σ_t = t, the model predicts v = ε − x_0 (rectified flow, FLUX).

With the predicted x̂_0 and ε̂, the step x_s = α_s·x̂_0 + σ_s·ε̂ is DDIM's (η = 0) for the former and
Euler's for the latter. Latents are float32 NCHW; levels are 0-dimensional or of shape (N,), one per
image.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

Prediction = Literal["flow", "epsilon"]


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts: named tensors whose first axis is the batch."""

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def rows(self, index: Sequence[int] | slice | Tensor) -> Self:
        """Select the conditioning of images by index, in that order; an index may repeat."""
        chosen = list(index) if isinstance(index, range) else index
        return type(self)({name: tensor[chosen] for name, tensor in self.tensors.items()})

    def to(self, device: torch.device | str) -> Self:
        """Move to a device."""
        return type(self)({name: tensor.to(device) for name, tensor in self.tensors.items()})

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Concatenate along the batch; rows of unequal sizes are padded with zeros to the largest."""
        parts = list(parts)
        return cls({name: _stacked([part[name] for part in parts]) for name in parts[0].tensors})


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along the first axis, with zeros after the smaller of the other axes."""
    if len({part.shape[1:] for part in parts}) == 1:
        return torch.cat(list(parts))
    sizes = [max(lengths) for lengths in zip(*(part.shape[1:] for part in parts), strict=True)]
    whole = parts[0].new_zeros(sum(map(len, parts)), *sizes)
    start = 0
    for part in parts:
        whole[(slice(start, start + len(part)), *map(slice, part.shape[1:]))] = part
        start += len(part)
    return whole


def prompts_beyond(prompts: Sequence[str], tokenizer: Any, limit: int) -> list[str]:
    """The prompts with more than `limit` tokens."""
    if not prompts:
        return []
    lengths = map(len, tokenizer(list(prompts), verbose=False).input_ids)
    return [prompt for prompt, length in zip(prompts, lengths, strict=True) if length > limit]


@dataclass(frozen=True)
class Schedule:
    """A sampling chain from noise to image.

    All of length T: `times` is the model's time input at each step, `alpha` and `sigma` are the levels before
    it, `next_alpha` and `next_sigma` those after it. `clip` bounds |x̂_0| if the scheduler is configured so.
    `span` is the value of `times` at pure noise.
    """

    times: Tensor
    alpha: Tensor
    sigma: Tensor
    next_alpha: Tensor
    next_sigma: Tensor
    clip: float | None = None
    span: float = 1.0

    def __len__(self) -> int:
        return len(self.times)

    @property
    def shares(self) -> list[float]:
        """The share of the way that each step has left, from noise = 1 to image = 0."""
        return (self.times.double() / self.span).tolist()


def broadcast_level(level: Tensor, latents: Tensor) -> Tensor:
    """A level per image, shaped to multiply NCHW latents."""
    return level.to(latents.device, torch.float32).reshape(-1, 1, 1, 1)


def add_noise(clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_t = α_t·x_0 + σ_t·ε."""
    return broadcast_level(alpha, clean) * clean + broadcast_level(sigma, clean) * noise


def shift_times(times: Tensor, patches: int) -> Tensor:
    """FLUX's shifted schedule, t ↦ e^μ / (e^μ + 1/t − 1), for times in [0, 1].

    μ is linear in the number of 2 × 2 patches of the latents: 0.5 at 256, 1.15 at 4096 (1024² pixels).
    """
    mu = 0.5 + (1.15 - 0.5) * (patches - 256) / (4096 - 256)
    factor = math.exp(mu)
    return factor * times / (1 + (factor - 1) * times)


def training_target(prediction: Prediction, clean: Tensor, noise: Tensor) -> Tensor:
    """The model's target for x_t: ε, or v = ε − x_0."""
    return noise - clean if prediction == "flow" else noise


def predicted_clean(
    prediction: Prediction, output: Tensor, latents: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    """x̂_0 from the model's output at x_t: (x_t − σ_t·ε̂) / α_t, or x_t − t·v̂."""
    if prediction == "flow":
        return latents - broadcast_level(sigma, latents) * output
    return (latents - broadcast_level(sigma, latents) * output) / broadcast_level(alpha, latents)


def predicted_noise(prediction: Prediction, output: Tensor, latents: Tensor, alpha: Tensor) -> Tensor:
    """ε̂ from the model's output at x_t: the output, or x_t + (1 − t)·v̂."""
    return latents + broadcast_level(alpha, latents) * output if prediction == "flow" else output
