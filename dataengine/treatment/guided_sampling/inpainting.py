"""Inpainting without training: RePaint (Lugmayr et al. 2022) around any family's own steps.

After every step, the known part is restored with the noise of its level; the rest is generated. `repeats`
above 1 return to the previous level and step again, which harmonises the generated with the known part
(RePaint, Alg. 1).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dataengine.errors import ConfigRefused
from dataengine.records import Report, no_report
from dataengine.treatment.config import Precision, SamplingConfig
from dataengine.treatment.families.diffusion import Conditioning, Schedule, add_noise, broadcast_level
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.sampling.sampler import (
    Step,
    Stepper,
    as_tensor,
    denoise,
    generate,
    mask_on_latents,
)

STREAM = 0x1A9A17
"""Separates the noise of the known part from the initial noise of images."""
EXCESS_STREAM = 0x1A9A18
"""That of noise in excess from both."""


class Inpainter:
    """A `Stepper` for one batch and one chain: restores the known part after each step."""

    def __init__(
        self,
        known: Tensor,
        missing: Tensor,
        seeds: Sequence[int],
        repeats: int = 1,
        inner: Stepper = denoise,
        strength: float = 1.0,
    ) -> None:
        """`known` are clean latents NCHW; `missing` is NHW over them, bool or a share in [0, 1] to generate.

        With a `strength` below 1 the missing part starts from the known one at that share of the way from
        image to noise (SDEdit, Meng et al. 2022), instead of from noise alone.
        """
        self._known, self._missing = known, missing[:, None].to(known.dtype)
        self._repeats, self._inner, self._strength = repeats, inner, strength
        self._noise = _generators(STREAM, seeds)

    def __call__(
        self,
        family: GeneratorFamily,
        latents: Tensor,
        conditioning: Conditioning,
        schedule: Schedule,
        step: int,
        guidance: float,
        precision: Precision = "float32",
    ) -> Step:
        """The step of `inner` from a state with the known part restored, `repeats` times."""
        now = schedule.alpha[step], schedule.sigma[step]
        after = schedule.next_alpha[step], schedule.next_sigma[step]
        if self._strength < 1 and schedule.shares[step] > self._strength:
            noised = add_noise(self._known, self._drawn(), *after)
            return Step(latents=noised, clean=self._known, asked=latents)

        def stepped(state: Tensor) -> Step:
            result = self._inner(family, state, conditioning, schedule, step, guidance, precision)
            return replace(result, latents=self._joined(result.latents, *after))

        result = stepped(latents if step else self._joined(latents, *now))
        for _ in range(self._repeats - 1):
            result = stepped(renoise(result.latents, self._drawn(), after, now))
        return result

    def _joined(self, latents: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        noised = add_noise(self._known, self._drawn(), alpha, sigma)
        return self._missing * latents + (1 - self._missing) * noised

    def _drawn(self) -> Tensor:
        return _gaussian(self._noise, self._known)


class NoisyStepper:
    """`denoise`, after which the state has more noise than its level says."""

    def __init__(self, excess: float, seeds: Sequence[int]) -> None:
        self._excess, self._noise = excess, _generators(EXCESS_STREAM, seeds)

    def __call__(
        self,
        family: GeneratorFamily,
        latents: Tensor,
        conditioning: Conditioning,
        schedule: Schedule,
        step: int,
        guidance: float,
        precision: Precision = "float32",
    ) -> Step:
        """A step of `denoise`, and `excess` times the next level's noise."""
        result = denoise(family, latents, conditioning, schedule, step, guidance, precision)
        sigma = broadcast_level(schedule.next_sigma[step], result.latents)
        noise = _gaussian(self._noise, result.latents)
        return replace(result, latents=result.latents + self._excess * sigma * noise)


def _generators(stream: int, seeds: Sequence[int]) -> list[torch.Generator]:
    """A source of noise for each image, from its own seed."""
    states = [int(np.random.SeedSequence([stream, seed]).generate_state(1)[0]) for seed in seeds]
    return [torch.Generator().manual_seed(state) for state in states]


def _gaussian(generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    rows = [torch.randn(like.shape[1:], generator=each) for each in generators]
    return torch.stack(rows).to(like)


def renoise(
    latents: Tensor, noise: Tensor, low: tuple[Tensor, Tensor], high: tuple[Tensor, Tensor]
) -> Tensor:
    """Noise states from level `low`, (α, σ), to `high` with fresh noise: q(x_t | x_s) for s < t."""
    ratio = broadcast_level(high[0], latents) / broadcast_level(low[0], latents)
    spread = broadcast_level(high[1], latents).square() - (ratio * broadcast_level(low[1], latents)).square()
    return ratio * latents + spread.clamp(min=0).sqrt() * noise


def inpaint(
    family: GeneratorFamily,
    images: np.ndarray,
    missing: np.ndarray,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplingConfig,
    repeats: int = 1,
    report: Report = no_report,
    strength: float = 1.0,
    excess: float = 0.0,
    feather: float = 0.0,
    restore: bool = True,
) -> np.ndarray:
    """Inpaint images uint8 NHWC: the `missing` pixels, bool NHW, are generated; all others keep their values,
    or, without `restore`, those of the VAE's reconstruction.

    `feather` is the width in latents over which the generated part passes into the known one around it.
    `strength` in (0, 1] is the noise from which they are; see `Inpainter`. An `excess` above 0 adds that
    multiple of each level's noise after its step, which the model does not expect: flawed on purpose.

    Raises `ConfigRefused` unless masks, prompts and seeds match the images, and the images the settings.
    """
    if missing.shape != images.shape[:3] or missing.dtype != np.bool_ or repeats < 1:
        raise ConfigRefused(
            f"got {missing.dtype} masks of shape {missing.shape} and {repeats} repeats; expected bool of "
            f"shape {images.shape[:3]} and one repeat or more"
        )
    if len(images) != len(seeds):
        raise ConfigRefused(f"got {len(images)} images and {len(seeds)} seeds; each image needs one seed")
    sized = settings.model_copy(update={"height": images.shape[1], "width": images.shape[2]})

    def of(rows: slice) -> Inpainter:
        known = family.encode_images(as_tensor(images[rows]).to(family.device))
        holes = torch.from_numpy(missing[rows]).to(family.device)
        inner = denoise if excess == 0 else NoisyStepper(excess, seeds[rows])
        share = feather_outwards(mask_on_latents(holes, known), feather)
        return Inpainter(known, share, seeds[rows], repeats, inner, strength)

    drawn = generate(family, prompts, seeds, sized, report, of)
    return np.where(missing[..., None], drawn, images) if restore else drawn


def feather_outwards(mask: Tensor, width: float) -> Tensor:
    """Share float32 NHW in [0, 1] of a bool mask: 1 inside, falling to 0 over `width` cells outside."""
    from scipy.ndimage import distance_transform_edt

    outside = [distance_transform_edt(~one) for one in mask.cpu().numpy()]
    distance = torch.from_numpy(np.stack(outside)).to(mask.device, torch.float32)
    return (1 - distance / (width + 1)).clamp(min=0)
