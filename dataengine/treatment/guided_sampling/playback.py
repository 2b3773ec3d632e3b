"""One image's sampling step by step: x̂_0, its changes, what was abnormal, what was corrected (ASCED)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.diagnosis.dynamics import compute_dynamics, upsample_map, window_steps
from dataengine.errors import ConfigRefused
from dataengine.records import Report, no_report
from dataengine.treatment.config import Precision, SamplingConfig
from dataengine.treatment.families.diffusion import Conditioning, Schedule
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.guided_sampling.correction import Corrector
from dataengine.treatment.sampling.sampler import (
    Step,
    Stepper,
    Steppers,
    as_uint8,
    denoise,
    encode,
    sample,
    size_of,
)


@dataclass(frozen=True, kw_only=True)
class PlayedStep:
    """One denoising step of one image of height H and width W."""

    level: float
    """Its share of the chain, from noise = 1 to image = 0."""
    clean: np.ndarray
    """x̂_0 as predicted at this step, uint8 HWC."""
    change: np.ndarray | None
    """float32 HW: change of x̂_0 since the step before, smoothed as by score dynamics; None at the first
    step."""
    abnormal: np.ndarray | None
    """bool HW: where that change exceeds the step's threshold; None outside the window of score dynamics."""
    corrected: np.ndarray | None
    """bool HW: the regions whose state was replaced before this step; None where none was."""


class _Recording:
    """A `Stepper` that keeps x̂_0 and the corrected regions of every step, and changes nothing."""

    def __init__(self, inner: Stepper, report: Callable[[int], None]) -> None:
        self.cleans: list[Tensor] = []
        self.regions: list[Tensor | None] = []
        self.levels: list[float] = []
        self._inner = inner
        self._report = report

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
        before = self._inner.regions if isinstance(self._inner, Corrector) else None
        result = self._inner(family, latents, conditioning, schedule, step, guidance, precision)
        after = self._inner.regions if isinstance(self._inner, Corrector) else None
        self.cleans.append(result.clean)
        self.regions.append(None if after is before else after)
        self.levels.append(schedule.shares[step])
        self._report(step)
        return result


@torch.no_grad()
def play(
    family: GeneratorFamily,
    prompt: str,
    seed: int,
    settings: SamplingConfig,
    config: DynamicsConfig,
    steppers: Steppers | None = None,
    report: Report = no_report,
) -> tuple[list[PlayedStep], np.ndarray]:
    """Every step of an image that is drawn as by `sampling.generate`, and the image, uint8 HWC.

    Raises `ConfigRefused` for a generator that predicts no x̂_0 at its steps.
    """
    if family.prediction not in ("epsilon", "flow"):
        raise ConfigRefused(
            f"{family.name} predicts {family.prediction!r}, which gives no x̂0 at its steps, so it cannot be "
            "played; noise prediction with DDIM and flow matching with Euler steps can"
        )
    size = size_of(family, settings)
    rows = slice(0, 1)
    recording = _Recording(
        denoise if steppers is None else steppers(rows),
        lambda step: report(step, 2 * settings.steps, "drawing"),
    )
    latents = sample(
        family,
        encode(family, [prompt]).rows(rows).to(family.device),
        family.initial_latents([seed], size),
        settings,
        stepper=recording,
    )
    image = as_uint8(family.decode(latents))[0]
    frames = torch.cat(recording.cleans).float().cpu().numpy()
    dynamics = compute_dynamics(frames, config) if len(frames) > 1 else None
    window = window_steps(recording.levels, config.start, config.stop)
    steps = []
    for at, (clean, regions) in enumerate(zip(recording.cleans, recording.regions, strict=True)):
        report(settings.steps + at, 2 * settings.steps, "decoding")
        watched = dynamics is not None and at in window[1:]
        steps.append(
            PlayedStep(
                level=float(recording.levels[at]),
                clean=as_uint8(family.decode(clean))[0],
                change=None if dynamics is None or not at else upsample_map(dynamics.changes[at - 1], size),
                abnormal=upsample_map(dynamics.abnormal[at - 1], size) if dynamics and watched else None,
                corrected=None if regions is None else upsample_map(regions[0].cpu().numpy(), size),
            )
        )
    return steps, image
