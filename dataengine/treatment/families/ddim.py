"""DDIM (Song et al. 2021, η = 0) for every noise-predicting family: the chain, times and levels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dataengine.errors import ModelRefused
from dataengine.treatment.families.diffusion import Schedule


def sampler(scheduler: Any, what: str, predictions: Sequence[str] = ("epsilon",)) -> Any:
    """A DDIM scheduler with the training noise schedule of `scheduler`.

    x̂_0 is clipped only if the generator's folder says so: diffusers would clip wherever it says nothing.
    Raises `ModelRefused`, naming the model as `what`, for other predictions, and for thresholding.
    """
    from diffusers import DDIMScheduler

    config = scheduler.config
    says_nothing = "clip_sample" not in config or "clip_sample" in config.get("_use_default_values", ())
    changes: dict[str, Any] = {"clip_sample": False} if says_nothing else {}
    if config.get("timestep_spacing") == "linspace":
        # Of other samplers: DDIM's next time is always one even stride away.
        changes["timestep_spacing"] = "leading"
    ddim = DDIMScheduler.from_config(config, **changes)
    if ddim.config.prediction_type not in predictions or ddim.config.thresholding:
        raise ModelRefused(
            f"{what} predicts {ddim.config.prediction_type!r} or thresholds x0; expected plain noise "
            "prediction"
        )
    return ddim


def schedule(scheduler: Any, steps: int, device: torch.device) -> Schedule:
    """DDIM's timesteps and levels; the last step ends at the scheduler's `final_alpha_cumprod`."""
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
    """Uniform integer timesteps."""
    return torch.randint(scheduler.config.num_train_timesteps, (count,), generator=rng)


def levels(scheduler: Any, times: Tensor) -> tuple[Tensor, Tensor]:
    """(√ᾱ_t, √(1 − ᾱ_t))."""
    alpha_bar = scheduler.alphas_cumprod.to(times.device)[times]
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
