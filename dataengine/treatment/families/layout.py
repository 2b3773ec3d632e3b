"""How a pipeline arranges and scales its latents, learned from the path that it takes from latents to VAE.

Between the last step and the VAE every pipeline of latent diffusion unpacks, unscales and shifts: x ↦
a·P(x) + b with a permutation P of the values of one image. Our latents are P(x), so they have the VAE's own
NCHW layout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from dataengine.errors import ModelRefused

DIGIT = 1024
"""Positions are read in two digits of this base, which float32 holds exactly after a scaling."""
TOLERANCE = 1e-4
"""Largest relative difference of a pipeline's own path from a·P(x) + b."""

Tail = Callable[[Tensor], Tensor]
"""The pipeline's path from its latents to its VAE's input, for one image, differentiable."""


@dataclass(frozen=True)
class Layout:
    """The arrangement of one size of image. `shape` is the pipeline's own, without the batch."""

    shape: tuple[int, ...]
    order: Tensor
    """Of shape CHW: the position in the pipeline's latents of each of ours."""
    back: Tensor
    """The inverse, flat."""
    scale: Tensor
    """a, float32 CHW."""
    shift: Tensor
    """b, float32 CHW."""
    frames: bool
    """Whether the VAE takes videos, of which an image is one frame."""

    @classmethod
    def of(cls, tail: Tail, example: Tensor) -> Self:
        """Learn it; `example` are latents of one image as the pipeline makes them, with batch.

        Raises `ModelRefused` where the path is no permutation with scale and shift.
        """
        with torch.enable_grad():
            given = torch.zeros_like(example, dtype=torch.float32).requires_grad_()
            output = tail(given)
            plain = output.squeeze(2) if output.ndim == 5 and output.shape[2] == 1 else output
            if plain.ndim != 4 or len(plain) != 1 or plain.numel() != given.numel() or not output.grad_fn:
                raise ModelRefused(
                    f"the path from latents {tuple(example.shape)} to the VAE's {tuple(output.shape)} is no "
                    "permutation"
                )
            at = torch.arange(plain.numel(), device=plain.device)
            digits = torch.ones_like(at), at % DIGIT, at // DIGIT
            ones, low, high = (
                torch.autograd.grad(output, given, each.view_as(output).float(), retain_graph=True)[0]
                for each in digits
            )
        back = ((low / ones).round() + DIGIT * (high / ones).round()).flatten().long()
        shape = tuple(plain.shape[1:])
        if not torch.equal(back.sort().values, at):
            raise ModelRefused("the path from latents to the VAE is no permutation of their values")
        order = back.argsort()
        layout = cls(
            shape=tuple(example.shape[1:]),
            order=order.view(shape),
            back=back,
            scale=ones.flatten()[order].view(shape),
            shift=output.detach().view(shape).float(),
            frames=output.ndim == 5,
        )
        layout._check(tail, example)
        return layout

    def _check(self, tail: Tail, example: Tensor) -> None:
        values = torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(example.device)
        with torch.no_grad():
            expected = tail(values)
            found = self.for_vae(self.outside(values))
        if not (found - expected).abs().max() <= TOLERANCE * expected.abs().max():
            raise ModelRefused("the path from latents to the VAE does more than scale, shift and rearrange")

    def outside(self, latents: Tensor) -> Tensor:
        """The pipeline's latents as ours, NCHW."""
        return latents.flatten(1)[:, self.order]

    def inside(self, latents: Tensor) -> Tensor:
        """Ours as the pipeline's; the inverse of `outside`."""
        return latents.flatten(1)[:, self.back].view(-1, *self.shape)

    def for_vae(self, latents: Tensor) -> Tensor:
        """Ours, NCHW, as the input of the VAE's decoder."""
        unscaled = latents * self.scale + self.shift
        return unscaled.unsqueeze(2) if self.frames else unscaled

    def from_vae(self, latents: Tensor) -> Tensor:
        """The output of the VAE's encoder as ours; the inverse of `for_vae`."""
        plain = latents.squeeze(2) if self.frames else latents
        return (plain - self.shift) / self.scale

    def to(self, device: torch.device) -> Self:
        """Move to a device."""
        moved = {name: getattr(self, name).to(device) for name in ("order", "back", "scale", "shift")}
        return type(self)(shape=self.shape, frames=self.frames, **moved)
