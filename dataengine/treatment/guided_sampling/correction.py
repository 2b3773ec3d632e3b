"""Correction during sampling (ASCED, Sec. 3.3), and its baselines: steppers around a family's step.

T_c is a level of the chain: the state at it is replaced before the model is asked there, as in the released
code, so that the model still takes that step and all after it. An image without regions is bit-equal to
uncorrected sampling, unless `correct_eta` adds noise.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dataengine.diagnosis.detector import Detector
from dataengine.diagnosis.dynamics import compute_dynamics, thresholds
from dataengine.errors import ConfigRefused
from dataengine.treatment.config import Precision
from dataengine.treatment.families.diffusion import Conditioning, Schedule, add_noise, broadcast_level
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.guided_sampling.config import CorrectionConfig
from dataengine.treatment.sampling.sampler import (
    Step,
    Stepper,
    Steppers,
    denoise,
    mask_on_latents,
    with_eta,
)
from dataengine.treatment.sampling.seeded_noise import SeededNoise
from dataengine.treatment.sampling.trajectory import FEWEST_FRAMES, frames_of, watched_steps

STREAM = 0xA5CED
"""Separates the noise of corrections from the initial noise of images."""


def make_correctors(
    config: CorrectionConfig,
    seeds: Sequence[int],
    detector: Detector | None = None,
    inner: Steppers | None = None,
) -> Steppers:
    """A factory of correctors for batches of the images with these seeds.

    Raises `ConfigRefused` when the regions need a detector and none is passed.
    """
    if config.needs_detector and detector is None:
        raise ConfigRefused("this correction takes its regions from a trained detector; pass one")

    def of(rows: slice) -> Corrector:
        return Corrector(config, seeds[rows], detector, denoise if inner is None else inner(rows))

    return of


class Corrector:
    """A `Stepper` for one batch and one chain: records the window, and corrects inside the regions."""

    def __init__(
        self,
        config: CorrectionConfig,
        seeds: Sequence[int],
        detector: Detector | None = None,
        inner: Stepper = denoise,
    ) -> None:
        """`seeds` are those of the images, one per row of the latents."""
        self.regions: Tensor | None = None
        """Bool NHW over latents: the last corrected regions; None before the first correction."""
        self._config = config
        self._detector = detector if config.needs_detector else None
        self._inner = inner
        self._frames: list[np.ndarray] = []
        self._cleans: deque[Tensor] = deque(maxlen=config.steps_back)
        self._reference: Tensor | None = None
        self._scores: list[Tensor] = []
        self._noise = SeededNoise(STREAM, config.seed, seeds)

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
        """The step of `inner`, its state replaced before it where it is a step of correction.

        Raises `ConfigRefused` when the window has too few steps.
        """
        config = self._config
        steps = self._steps(family, schedule, latents)
        if step in self._corrected(steps):
            latents = self._replaced(family, latents, schedule, step)
        result = self._inner(family, latents, conditioning, schedule, step, guidance, precision)
        if config.method == "ttc" and config.correct_eta and step == steps[-1]:
            result = with_eta(result, self._drawn(result.clean), schedule, step, config.correct_eta)
        if step == steps[0]:
            self._reference = result.clean
        if config.regions == "dynamics" and step in steps and step not in self._corrected(steps):
            self._frames.append(frames_of(family, result, schedule.alpha[step], config.dynamics))
        if config.method == "clipping" and step in steps:
            result = self._clipped(family, latents, result, schedule, step)
        self._cleans.append(result.clean)
        return result

    def _steps(self, family: GeneratorFamily, schedule: Schedule, latents: Tensor) -> list[int]:
        """The steps of the window; the last is T_c. Raises `ConfigRefused` for too few.

        Where the window holds fewer than two frames of score dynamics before T_c, they begin earlier.
        """
        config = self._config
        if config.method == "clipping":
            return watched_steps(family, schedule, latents, config.dynamics)
        steps = watched_steps(family, schedule, latents, config.dynamics, 2 if config.every_step else 1)
        frames = FEWEST_FRAMES if config.regions == "dynamics" else 0
        needed = max(frames, config.steps_back)
        if steps[-1] < needed:
            raise ConfigRefused(
                f"the correction is at step {steps[-1] + 1} of {len(schedule)}, and needs {needed} steps "
                "before it; sample with more steps, or lower dynamics.stop"
            )
        return list(range(min(steps[0], steps[-1] - frames), steps[-1] + 1))

    def _corrected(self, steps: list[int]) -> list[int]:
        """Those of the window's steps whose state is replaced before the model is asked."""
        if self._config.method == "clipping":
            return []
        return steps[1:] if self._config.every_step else steps[-1:]

    def _replaced(self, family: GeneratorFamily, latents: Tensor, schedule: Schedule, step: int) -> Tensor:
        """x_t replaced inside the regions by q_sample(x̂_0 + γ·ξ, t), with fresh noise; unchanged outside."""
        regions = self._found(family, self._cleans[-1])
        clean = self._base()
        state = add_noise(clean, self._drawn(clean), schedule.alpha[step], schedule.sigma[step])
        return torch.where(regions[:, None], state, latents)

    def _base(self) -> Tensor:
        """The x̂_0 from which the region restarts, with γ·ξ for TTC (Eq. 6).

        Adapted SARGD takes that of the window's first step, in place of the low-resolution image.
        """
        if self._config.method == "sargd":
            assert self._reference is not None
            return self._reference
        earlier = self._cleans[0]
        if self._config.method == "replacement":
            return earlier
        return earlier + self._config.gamma * self._drawn(earlier)

    def _clipped(
        self, family: GeneratorFamily, latents: Tensor, result: Step, schedule: Schedule, step: int
    ) -> Step:
        """|Δ(w·s)| limited to τ inside the regions found so far; x̂_0 and ε̂ follow the clipped score."""
        alpha, sigma = (
            broadcast_level(schedule.alpha[step], latents),
            broadcast_level(schedule.sigma[step], latents),
        )
        rest = latents / alpha
        score = result.clean - rest
        if not self._scores:
            self._scores.append(score)
            return result
        limits = self._limits(score)
        regions = self._found(family, result.clean)
        bounded = self._scores[-1] + (score - self._scores[-1]).clamp(-limits, limits)
        clipped = torch.where(regions[:, None], bounded, score)
        self._scores.append(clipped)
        clean = clipped + rest
        noise = (latents - alpha * clean) / sigma
        state = add_noise(clean, noise, schedule.next_alpha[step], schedule.next_sigma[step])
        return replace(result, latents=torch.where(regions[:, None], state, result.latents), clean=clean)

    def _limits(self, score: Tensor) -> Tensor:
        """τ of Eq. 4 for this step, one per image, N111."""
        config = self._config.dynamics.model_copy(update={"form": "paper"})
        scores = torch.stack([*self._scores, score]).transpose(0, 1).detach().float().cpu().numpy()
        limits = [float(thresholds(np.abs(np.diff(each, axis=0)), config)[1][-1]) for each in scores]
        return score.new_tensor(limits)[:, None, None, None]

    def _found(self, family: GeneratorFamily, clean: Tensor) -> Tensor:
        """Regions that this step corrects, bool NHW over latents; empty for images whose fault is not
        local."""
        if self._config.regions == "everywhere":
            self.regions = torch.ones_like(clean[:, 0], dtype=torch.bool)
            return self.regions
        regions = self._by_dynamics(clean) if self._detector is None else self._by_detector(family, clean)
        local = regions.float().mean((1, 2)) <= self._config.cover
        self.regions = regions & local[:, None, None]
        return self.regions

    def _by_dynamics(self, clean: Tensor) -> Tensor:
        frames = np.stack(self._frames, axis=1)
        masks = np.stack([compute_dynamics(each, self._config.dynamics).regions for each in frames])
        return mask_on_latents(torch.from_numpy(masks).to(clean.device), clean)

    def _by_detector(self, family: GeneratorFamily, clean: Tensor) -> Tensor:
        assert self._detector is not None
        with torch.no_grad():
            confidence = self._detector.confidence(family.decode(clean))
        return mask_on_latents(confidence >= self._config.threshold, clean)

    def _drawn(self, like: Tensor) -> Tensor:
        """Gaussian noise, each image's from its own seed."""
        return self._noise.draw(like)
