"""Watching a generator draw: what it predicts at the steps of a window, for score dynamics (ASCED)."""

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
    as_uint8,
    denoise,
    encode,
    guidance_of,
    size_of,
)

MOST_STEPS = 1000
"""Where the search for a number of steps that fits a window ends."""
FEWEST = 2
"""Frames that have a change between them."""


class Recorder:
    """A `Stepper` that keeps what score dynamics compare, at the steps of the window, and changes nothing."""

    def __init__(self, config: DynamicsConfig, inner: Stepper = denoise) -> None:
        """`inner` makes the step."""
        self.steps: list[int] = []
        """The window's steps so far."""
        self.levels: list[float] = []
        """Their shares of the way, counted from noise = 1."""
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
        """The step that `inner` makes. Raises `ConfigRefused` when the chain cannot be watched."""
        chosen = watched_steps(family, schedule, latents, self._config)
        made = self._inner(family, latents, conditioning, schedule, step, guidance, precision)
        if step in chosen:
            self.steps.append(step)
            self.levels.append(schedule.shares[step])
            self._frames.append(frames_of(family, latents, made.clean, schedule.alpha[step], self._config))
        return made

    def dynamics(self) -> list[Dynamics]:
        """Of every image, by the frames kept so far."""
        frames = np.stack(self._frames, axis=1)
        return [compute_dynamics(each, self._config) for each in frames]


def frames_of(
    family: GeneratorFamily, latents: Tensor, clean: Tensor, alpha: Tensor, config: DynamicsConfig
) -> np.ndarray:
    """What is compared of one step, NCHW: x̂_0 in latents or as 8-bit pixels, or w·s = x̂_0 − x_t/α_t."""
    if config.form == "paper":
        return (clean - latents / broadcast_level(alpha, latents)).detach().float().cpu().numpy()
    if config.space == "latent":
        return clean.detach().float().cpu().numpy()
    with torch.no_grad():
        return as_uint8(family.decode(clean)).transpose(0, 3, 1, 2)


def watched_steps(
    family: GeneratorFamily, schedule: Schedule, latents: Tensor, config: DynamicsConfig
) -> list[int]:
    """The window's steps. Raises `ConfigRefused` for a model without x̂_0, and for too few steps, naming how
    many are needed."""
    if family.prediction not in ("epsilon", "flow"):
        raise ConfigRefused(
            f"{family.name} predicts {family.prediction!r}, which gives no x̂0; noise prediction with DDIM "
            "and flow matching with Euler steps are supported"
        )
    steps = window_steps(schedule.shares, config.start, config.stop)
    if len(steps) < FEWEST:
        raise ConfigRefused(
            f"{len(schedule)} steps leave {len(steps) or 'none'} in the window from {config.start:g} to "
            f"{config.stop:g} of the way, and changes need {FEWEST}; {_remedy(family, latents, config)}"
        )
    return steps


def _remedy(family: GeneratorFamily, latents: Tensor, config: DynamicsConfig) -> str:
    for steps in range(FEWEST, MOST_STEPS + 1):
        shares = family.schedule(steps, latents).shares
        if len(window_steps(shares, config.start, config.stop)) >= FEWEST:
            return f"draw with {steps} steps or choose a wider window"
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
    """Dynamics of every image, drawn as `sampling.generate` draws it but only as far as the window goes, and
    the window's shares of the way.

    Raises `ConfigRefused` as `Recorder` does.
    """
    height, width = size_of(family, settings)
    conditioning = encode(family, prompts)
    found: list[Dynamics] = []
    levels: list[float] = []
    for start in range(0, len(seeds), settings.batch):
        rows = slice(start, start + settings.batch)
        latents = family.initial_latents(seeds[rows], (height, width))
        schedule = family.schedule(settings.steps, latents)
        recorder = Recorder(config, denoise if steppers is None else steppers(rows))
        told = conditioning.rows(rows).to(family.device)
        for step in range(watched_steps(family, schedule, latents, config)[-1] + 1):
            latents = recorder(
                family, latents, told, schedule, step, guidance_of(family, settings), settings.precision
            ).latents
            report(start, len(seeds), "watching")
        found += recorder.dynamics()
        levels = recorder.levels
    return found, levels


def map_of(found: Dynamics, size: tuple[int, int]) -> np.ndarray:
    """The artifact map, float32 HW in [0, 1], of an image of that size in pixels."""
    return np.ascontiguousarray(upsample_map(found.confidence, size))
