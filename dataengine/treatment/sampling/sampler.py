"""Sampling of images: plain functions over a generator family, the same for noise and flow prediction."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataengine.errors import ConfigRefused, out_of_memory
from dataengine.records import Report, no_report
from dataengine.treatment.config import Precision, SamplingConfig
from dataengine.treatment.families.diffusion import (
    Conditioning,
    Schedule,
    add_noise,
    broadcast_level,
    predicted_clean,
    predicted_noise,
)
from dataengine.treatment.families.family import GeneratorFamily

ENCODED_AT_ONCE = 32


@dataclass(frozen=True)
class Step:
    """The result of one denoising step: the next latents, x̂_0 as predicted before it, and the state that the
    model was asked at, which a correction may have replaced; all NCHW."""

    latents: Tensor
    clean: Tensor
    asked: Tensor


class Stepper(Protocol):
    """Performs one step of a chain: `denoise`, or a function around it that records or steers."""

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
        """The next latents, x̂_0, and the state that it was predicted from."""


Steppers = Callable[[slice], Stepper]
"""Creates the stepper of one batch, given by the indices of its images."""


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Mixed precision for the denoiser."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def denoise(
    family: GeneratorFamily,
    latents: Tensor,
    conditioning: Conditioning,
    schedule: Schedule,
    step: int,
    guidance: float,
    precision: Precision = "float32",
) -> Step:
    """One step of the chain, deterministic and differentiable."""
    times = schedule.times[step].expand(len(latents))
    with autocast(latents.device, precision):
        output = family.predict(latents, times, conditioning, guidance)
    output = output.float()
    alpha, sigma = schedule.alpha[step], schedule.sigma[step]
    clean = predicted_clean(family.prediction, output, latents, alpha, sigma)
    if schedule.clip is not None:
        clean = clean.clamp(-schedule.clip, schedule.clip)
    noise = predicted_noise(family.prediction, output, latents, alpha)
    return Step(
        latents=add_noise(clean, noise, schedule.next_alpha[step], schedule.next_sigma[step]),
        clean=clean,
        asked=latents,
    )


def with_eta(result: Step, noise: Tensor, schedule: Schedule, step: int, eta: float) -> Step:
    """The same step with fresh `noise` by η (Song et al. 2021, Eq. 16): 0 is deterministic, 1 is ancestral.

    The variance is η² times that of q(x_s | x_t, x_0), so that it holds for noise and flow prediction alike.
    The chain's last step stays as it is.
    """
    if step == len(schedule) - 1:
        return result
    alpha, sigma = schedule.alpha[step], schedule.sigma[step]
    next_alpha, next_sigma = schedule.next_alpha[step], schedule.next_sigma[step]
    added = eta * next_sigma / sigma * (sigma**2 - (alpha / next_alpha * next_sigma) ** 2).clamp(min=0).sqrt()
    kept = (next_sigma**2 - added**2).clamp(min=0).sqrt() / next_sigma
    towards = broadcast_level(next_alpha, result.latents) * result.clean
    state = towards + broadcast_level(kept, noise) * (result.latents - towards)
    return replace(result, latents=state + broadcast_level(added, noise) * noise)


def sample(
    family: GeneratorFamily,
    conditioning: Conditioning,
    latents: Tensor,
    settings: SamplingConfig,
    grad_last: int = 0,
    on_step: Callable[[], None] | None = None,
    stepper: Stepper | None = None,
) -> Tensor:
    """Run the chain from the noise `latents`; returns the clean latents.

    The gradient flows through the last `grad_last` steps only (DiffDoctor, Algorithm 1, t_tr); earlier steps
    run without a graph, so memory does not grow with the number of steps. `on_step` is called after every
    step, and when the gradient comes back through one. `stepper` performs the steps, `denoise` by default.
    """
    schedule = family.schedule(settings.steps, latents)
    guidance = guidance_of(family, settings)
    take = stepper or denoise
    for step in range(len(schedule)):
        tracked = torch.is_grad_enabled() and step >= len(schedule) - grad_last
        with torch.set_grad_enabled(tracked):
            latents = take(
                family, latents, conditioning, schedule, step, guidance, settings.precision
            ).latents
        if on_step is not None:
            on_step()
            if latents.requires_grad:
                latents.register_hook(partial(_passed, on_step))
    return latents


def _passed(on_step: Callable[[], None], gradient: Tensor) -> None:
    """Called with a gradient on its way back, which stays as it is."""
    on_step()


def predict_clean(
    family: GeneratorFamily,
    conditioning: Conditioning,
    latents: Tensor,
    settings: SamplingConfig,
    at: int,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """x̂_0 as predicted at step `at` of the chain, with gradient through that step alone (ReFL, Alg. 1)."""
    schedule = family.schedule(settings.steps, latents)
    guidance = guidance_of(family, settings)
    tracked = torch.is_grad_enabled()
    for step in range(at + 1):
        with torch.set_grad_enabled(tracked and step == at):
            result = denoise(family, latents, conditioning, schedule, step, guidance, settings.precision)
        latents = result.latents
        if on_step is not None:
            on_step()
    return result.clean


def guidance_of(family: GeneratorFamily, settings: SamplingConfig) -> float:
    """The configured guidance scale, or the family's own."""
    return family.guidance if settings.guidance is None else settings.guidance


def size_of(family: GeneratorFamily, settings: SamplingConfig) -> tuple[int, int]:
    """The configured (height, width), or the family's own. Raises `ConfigRefused` unless the family supports
    it."""
    height, width = settings.height or family.size[0], settings.width or family.size[1]
    if height % family.multiple or width % family.multiple:
        raise ConfigRefused(
            f"{height}×{width} pixels is no size of {family.name}; use multiples of {family.multiple}"
        )
    return height, width


def encode(family: GeneratorFamily, prompts: Sequence[str]) -> Conditioning:
    """Conditioning of many prompts, encoded in batches and kept on the CPU."""
    starts = range(0, len(prompts), ENCODED_AT_ONCE)
    return Conditioning.joined(
        family.encode_prompts(prompts[start : start + ENCODED_AT_ONCE]).to("cpu") for start in starts
    )


def generate(
    family: GeneratorFamily,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplingConfig | None = None,
    report: Report = no_report,
    steppers: Steppers | None = None,
) -> np.ndarray:
    """Generate images uint8 NHWC, one per prompt and its seed, in batches.

    An image depends on its own prompt and seed, not on the rest of its batch (up to float rounding).
    `report` is called after every denoising step. `steppers` record or steer (see `correction`, `guidance`).
    Raises `ConfigRefused` for no prompts, and for sizes that the family does not support.
    """
    if not prompts or len(prompts) != len(seeds):
        raise ConfigRefused(f"got {len(prompts)} prompts and {len(seeds)} seeds; each prompt needs one seed")
    return draw(family, encode(family, prompts), seeds, settings or SamplingConfig(), report, steppers)


@torch.no_grad()
def draw(
    family: GeneratorFamily,
    conditioning: Conditioning,
    seeds: Sequence[int],
    settings: SamplingConfig,
    report: Report = no_report,
    steppers: Steppers | None = None,
) -> np.ndarray:
    """`generate` for encoded prompts. A batch that does not fit into memory is drawn in halves."""
    height, width = size_of(family, settings)
    images = np.empty((len(seeds), height, width, 3), dtype=np.uint8)
    start, batch = 0, settings.batch
    while start < len(seeds):
        rows = slice(start, start + batch)
        try:
            clean = sample(
                family,
                conditioning.rows(rows).to(family.device),
                family.initial_latents(seeds[rows], (height, width)),
                settings,
                on_step=_reporting(report, start, min(batch, len(seeds) - start), settings.steps, len(seeds)),
                stepper=None if steppers is None else steppers(rows),
            )
            images[rows] = as_uint8(family.decode(clean))
        except (RuntimeError, MemoryError) as error:
            # Steppers may have recorded the failed attempt.
            if batch == 1 or steppers is not None or not out_of_memory(error):
                raise
            batch = max(1, batch // 2)
            continue
        start += batch
    report(len(seeds), len(seeds), "drawing")
    return images


def _reporting(report: Report, start: int, batch: int, steps: int, total: int) -> Callable[[], None]:
    """Reports after each step of a batch, with the share of the batch that is done."""
    done = count(1)
    return lambda: report(start + batch * min(next(done) / steps, 1), total, "drawing")


def as_uint8(images: Tensor) -> np.ndarray:
    """Images float N3HW in [0, 1] as uint8 NHWC, rounded to nearest."""
    return (images.detach().float().cpu() * 255).round().byte().permute(0, 2, 3, 1).numpy()


def as_tensor(images: np.ndarray) -> Tensor:
    """Images uint8 NHWC as float32 N3HW in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def crop_and_resize(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """One image as float32 13HW: centre-cropped to the size's proportions, then resized."""
    height, width = image.shape[:2]
    scale = min(height / size[0], width / size[1])
    rows, columns = round(size[0] * scale), round(size[1] * scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    cut = as_tensor(image[None, top : top + rows, left : left + columns])
    if (rows, columns) == size:
        return cut
    return F.interpolate(cut, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def mask_on_latents(mask: Tensor, like: Tensor) -> Tensor:
    """Resize a bool mask NHW of any size to the grid of NCHW latents: a latent is inside if any of its pixels
    is."""
    return F.adaptive_max_pool2d(mask[:, None].float(), like.shape[-2:])[:, 0] > 0
