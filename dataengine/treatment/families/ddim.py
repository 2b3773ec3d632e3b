"""DDIM (Song et al. 2021, η = 0) for every family that predicts noise: the chain, times and levels."""

from typing import Any

import torch
from torch import Tensor

from dataengine.errors import ModelRefused
from dataengine.treatment.families.diffusion import Schedule


def sampler(scheduler: Any, what: str) -> Any:
    """The DDIM scheduler with the training noise of `scheduler`, whichever that is.

    Raises `ModelRefused`, naming `what` it is of, for anything but plain noise prediction.
    """
    from diffusers import DDIMScheduler

    found = DDIMScheduler.from_config(scheduler.config)
    if found.config.prediction_type != "epsilon" or found.config.thresholding:
        raise ModelRefused(
            f"{what} predicts {found.config.prediction_type!r} or thresholds x0; plain noise prediction is "
            "expected"
        )
    return found


def schedule(scheduler: Any, steps: int, device: torch.device) -> Schedule:
    """DDIM's timesteps and levels; after the last step comes the scheduler's `final_alpha_cumprod`."""
    config = scheduler.config
    scheduler.set_timesteps(steps, device=device)
    times = scheduler.timesteps
    kept = scheduler.alphas_cumprod.to(device)
    before = times - config.num_train_timesteps // steps
    final = scheduler.final_alpha_cumprod.to(device)
    now, after = kept[times], torch.where(before >= 0, kept[before.clamp(min=0)], final)
    return Schedule(
        times=times,
        alpha=now.sqrt(),
        sigma=(1 - now).sqrt(),
        next_alpha=after.sqrt(),
        next_sigma=(1 - after).sqrt(),
        clip=config.clip_sample_range if config.clip_sample else None,
        span=config.num_train_timesteps,
    )


def random_times(scheduler: Any, count: int, rng: torch.Generator) -> Tensor:
    """Uniform whole timesteps."""
    return torch.randint(scheduler.config.num_train_timesteps, (count,), generator=rng)


def levels(scheduler: Any, times: Tensor) -> tuple[Tensor, Tensor]:
    """(√ᾱ_t, √(1 − ᾱ_t))."""
    alpha_bar = scheduler.alphas_cumprod.to(times.device)[times]
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
