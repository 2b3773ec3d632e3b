"""Sampling by diffusers' own schedulers, as people draw, instead of the plain steps of `sampler`.

A solver takes the family's noise levels (flow matching) or its scheduler's training schedule (noise
prediction) and integrates otherwise. Noise that a solver adds depends on the image's seed alone.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataengine.errors import ConfigRefused
from dataengine.records import Report, no_report
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.diffusion import Conditioning
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.sampling.sampler import as_uint8, autocast, encode, guidance_of, size_of

FLOW_SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "DPM++ 2M": (
        "DPMSolverMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ),
    "UniPC": ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
}
NOISE_SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "UniPC": ("UniPCMultistepScheduler", {}),
}
"""Scheduler classes of diffusers with their settings, by the names that drawing programs give them."""
HIGHEST = 0.999
"""Noise level of flow matching at which multistep solvers begin: at 1 their log-SNR is infinite."""


def solvers_of(family: GeneratorFamily) -> tuple[str, ...]:
    """Names of the solvers that fit the family's prediction."""
    return tuple(_table(family))


def draw_with(
    family: GeneratorFamily,
    solver: str,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplingConfig,
    report: Report = no_report,
) -> np.ndarray:
    """Generate images uint8 NHWC, one per prompt and its seed, by the solver of that name, in batches.

    The noise is that of `sampler.generate` for the same seeds. Raises `ConfigRefused` for a solver that does
    not fit the family, and for a size that it does not draw.
    """
    height, width = size_of(family, settings)
    conditioning = encode(family, prompts)
    images = np.empty((len(seeds), height, width, 3), dtype=np.uint8)
    for start in range(0, len(seeds), settings.batch):
        rows = slice(start, start + settings.batch)
        report(start, len(seeds), "drawing")
        with torch.no_grad():
            clean = solve(
                family,
                solver,
                conditioning.rows(rows).to(family.device),
                family.initial_latents(seeds[rows], (height, width)),
                seeds[rows],
                settings,
            )
            images[rows] = as_uint8(family.decode(clean))
    report(len(seeds), len(seeds), "drawing")
    return images


def solve(
    family: GeneratorFamily,
    solver: str,
    conditioning: Conditioning,
    noise: Tensor,
    seeds: Sequence[int],
    settings: SamplingConfig,
) -> Tensor:
    """Clean latents NCHW of the noise of those seeds, by the solver of that name."""
    flows = family.prediction == "flow"
    scheduler = open_solver(family, solver, settings.steps, noise)
    takes = inspect.signature(scheduler.step).parameters
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    options = {"generator": generators} if "generator" in takes else {}
    guidance = guidance_of(family, settings)
    latents = noise if flows else noise * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        asked = latents if flows else scheduler.scale_model_input(latents, time)
        at = time / scheduler.config.num_train_timesteps if flows else time
        with autocast(latents.device, settings.precision):
            output = family.predict(asked, at.expand(len(latents)), conditioning, guidance)
        latents = scheduler.step(output.float(), time, latents, **options).prev_sample
    return latents


def open_solver(family: GeneratorFamily, solver: str, steps: int, latents: Tensor) -> Any:
    """A scheduler of diffusers, set to that number of steps. Raises `ConfigRefused` for what does not fit."""
    import diffusers

    table = _table(family)
    if solver not in table:
        raise ConfigRefused(f"{family.name} is not drawn by {solver!r}; choose one of {', '.join(table)}")
    kind, options = table[solver]
    known = getattr(diffusers, kind)
    if family.prediction == "flow":
        scheduler = known(**options)
        scheduler.set_timesteps(steps, device=latents.device)
        _take_levels(scheduler, family.schedule(steps, latents).sigma, second_order=solver == "Heun")
        return scheduler
    config = family.pipeline.scheduler.config  # type: ignore[attr-defined]
    scheduler = known.from_config(config, prediction_type="epsilon", **options)
    scheduler.set_timesteps(steps, device=latents.device)
    return scheduler


def _take_levels(scheduler: Any, sigma: Tensor, second_order: bool) -> None:
    """Replace a flow scheduler's noise levels by the family's own, (steps,) from noise to image."""
    levels = sigma.float().cpu()
    if second_order:
        # Heun asks twice at every level but the first.
        levels = torch.cat([levels[:1], levels[1:].repeat_interleave(2)])
    else:
        levels = levels.clamp(max=HIGHEST)
    scheduler.sigmas = torch.cat([levels, torch.zeros(1)])
    scheduler.timesteps = levels * scheduler.config.num_train_timesteps
    scheduler.set_begin_index(0)


def _table(family: GeneratorFamily) -> dict[str, tuple[str, dict[str, Any]]]:
    return FLOW_SOLVERS if family.prediction == "flow" else NOISE_SOLVERS
