"""Recording of a generator's predictions at the steps of a window, for score dynamics (ASCED)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.diagnosis.dynamics import Dynamics, compute_dynamics, upsample_map, window_steps
from dataengine.errors import ConfigRefused
from dataengine.records import Report, no_report
from dataengine.treatment.config import Precision, SamplingConfig
from dataengine.treatment.families.diffusion import Conditioning, Schedule, broadcast_level
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.sampling.sampler import (
    Step,
    Stepper,
    Steppers,
    denoise,
    encode,
    guidance_of,
    size_of,
)

MAX_STEPS = 1000
"""Upper limit of the search for a number of steps that fits a window."""
FEWEST_FRAMES = 2
"""Fewest frames of a window."""


class Recorder:
    """A `Stepper` that records the frames of score dynamics at the steps of the window, and changes
    nothing."""

    def __init__(self, config: DynamicsConfig, inner: Stepper = denoise) -> None:
        """`inner` performs the step."""
        self.steps: list[int] = []
        """The recorded frames of the window so far."""
        self.levels: list[float] = []
        """Their shares, from noise = 1 to image = 0."""
        self._config = config
        self._inner = inner
        self._frames: list[np.ndarray] = []

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
        """The step of `inner`. Raises `ConfigRefused` when score dynamics do not support the chain."""
        chosen = watched_steps(family, schedule, latents, self._config)
        result = self._inner(family, latents, conditioning, schedule, step, guidance, precision)
        if step in chosen:
            self.steps.append(step)
            self.levels.append(schedule.shares[step])
            self._frames.append(frames_of(family, result, schedule.alpha[step], self._config))
        return result

    def dynamics(self) -> list[Dynamics]:
        """The dynamics of every image, from the frames recorded so far."""
        frames = np.stack(self._frames, axis=1)
        return [compute_dynamics(each, self._config) for each in frames]


def frames_of(family: GeneratorFamily, result: Step, alpha: Tensor, config: DynamicsConfig) -> np.ndarray:
    """The frame of one step, NCHW: x̂_0 in latents or as 8-bit pixels, or w·s = x̂_0 − x_t/α_t."""
    clean = result.clean
    if config.form == "paper":
        return (clean - result.asked / broadcast_level(alpha, clean)).detach().float().cpu().numpy()
    if config.space == "latent":
        return clean.detach().float().cpu().numpy()
    with torch.no_grad():
        # Cut off, not rounded, as in the released code.
        return (family.decode(clean).detach().float().cpu() * 255).byte().numpy()


def watched_steps(
    family: GeneratorFamily,
    schedule: Schedule,
    latents: Tensor,
    config: DynamicsConfig,
    fewest: int = FEWEST_FRAMES,
) -> list[int]:
    """Indices of the window's steps. Raises `ConfigRefused` for a model without x̂_0, and for fewer than
    `fewest` steps, stating how many the chain needs."""
    if family.prediction not in ("epsilon", "flow"):
        raise ConfigRefused(
            f"{family.name} predicts {family.prediction!r}, which gives no x̂0; noise prediction with DDIM "
            "and flow matching with Euler steps are supported"
        )
    steps = window_steps(schedule.shares, config.start, config.stop)
    if len(steps) < fewest:
        raise ConfigRefused(
            f"of {len(schedule)} steps {len(steps) or 'none'} {'is' if len(steps) == 1 else 'are'} in the "
            f"window from {config.start:g} to {config.stop:g}, and {fewest} must be; "
            f"{_remedy(family, latents, config, fewest)}"
        )
    return steps


def _remedy(family: GeneratorFamily, latents: Tensor, config: DynamicsConfig, fewest: int) -> str:
    for steps in range(fewest, MAX_STEPS + 1):
        shares = family.schedule(steps, latents).shares
        if len(window_steps(shares, config.start, config.stop)) >= fewest:
            return f"sample with {steps} steps or choose a wider window"
    return "choose a wider window"


@torch.no_grad()
def watch_dynamics(
    family: GeneratorFamily,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplingConfig,
    config: DynamicsConfig,
    steppers: Steppers | None = None,
    report: Report = no_report,
) -> tuple[list[Dynamics], list[float]]:
    """Dynamics of every image, sampled as by `sampling.generate` but only to the end of the window, and the
    shares of the window's steps.

    Raises `ConfigRefused` as `Recorder` does.
    """
    height, width = size_of(family, settings)
    conditioning = encode(family, prompts)
    dynamics: list[Dynamics] = []
    levels: list[float] = []
    for start in range(0, len(seeds), settings.batch):
        rows = slice(start, start + settings.batch)
        latents = family.initial_latents(seeds[rows], (height, width))
        schedule = family.schedule(settings.steps, latents)
        recorder = Recorder(config, denoise if steppers is None else steppers(rows))
        batch_conditioning = conditioning.rows(rows).to(family.device)
        for step in range(watched_steps(family, schedule, latents, config)[-1] + 1):
            latents = recorder(
                family,
                latents,
                batch_conditioning,
                schedule,
                step,
                guidance_of(family, settings),
                settings.precision,
            ).latents
            report(start, len(seeds), "watching")
        dynamics += recorder.dynamics()
        levels = recorder.levels
    return dynamics, levels


def dynamics_map(dynamics: Dynamics, size: tuple[int, int]) -> np.ndarray:
    """The artifact map, float32 HW in [0, 1], of an image of that size in pixels."""
    return np.ascontiguousarray(upsample_map(dynamics.confidence, size))
