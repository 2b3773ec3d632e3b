"""Correction during sampling (ASCED, Sec. 3.3), and its baselines: steppers around a family's step.

States are those after a step: x_t of the paper is the next latents, at their own level. An image without
regions is bit-equal to uncorrected sampling.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataengine.diagnosis.detector import Detector
from dataengine.diagnosis.dynamics import compute_dynamics, thresholds
from dataengine.errors import ConfigRefused
from dataengine.treatment.config import CorrectionConfig, Precision
from dataengine.treatment.families.diffusion import Conditioning, Schedule, add_noise, broadcast_level
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.sampling.sampler import Step, Stepper, Steppers, denoise
from dataengine.treatment.sampling.trajectory import frames_of, watched_steps

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
        self._seeds = list(seeds)
        self._detector = detector if config.needs_detector else None
        self._inner = inner
        self._frames: list[np.ndarray] = []
        self._cleans: deque[Tensor] = deque(maxlen=config.earlier + 1)
        self._reference: Tensor | None = None
        self._scores: list[Tensor] = []
        self._noise: dict[int, torch.Generator] = {}

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
        """The step of `inner`, corrected. Raises `ConfigRefused` when the window has too few steps, or
        includes the last step, after which nothing is sampled."""
        steps = watched_steps(family, schedule, latents, self._config.dynamics)
        if steps[-1] == len(schedule) - 1 and self._config.method != "clipping":
            raise ConfigRefused(
                f"the window includes the last of {len(schedule)} steps, after which no step can "
                f"use a correction: set dynamics.stop above {schedule.shares[-1]:.3g}"
            )
        result = self._inner(family, latents, conditioning, schedule, step, guidance, precision)
        self._cleans.append(result.clean)
        if step not in steps:
            return result
        alpha = schedule.alpha[step]
        if self._config.regions == "dynamics":
            self._frames.append(frames_of(family, latents, result.clean, alpha, self._config.dynamics))
        if self._config.method == "clipping":
            return self._clipped(family, latents, result, schedule, step)
        if self._config.method == "sargd":
            return self._held(family, result, schedule, step)
        if step != steps[-1] and not self._config.repeated:
            return result
        return self._renewed(result, self._base(result), schedule, step, self._found(family, result.clean))

    def _base(self, result: Step) -> Tensor:
        """The x̂_0 from which the region restarts."""
        if self._config.method == "ttc":
            return result.clean + self._config.gamma * self._drawn(result.clean)
        return self._cleans[0]

    def _renewed(self, result: Step, clean: Tensor, schedule: Schedule, step: int, regions: Tensor) -> Step:
        """Eq. 6: q_sample(x̂_0 + γ·ξ, t) inside the regions, with fresh noise; outside, the step is
        unchanged."""
        state = add_noise(clean, self._drawn(clean), schedule.next_alpha[step], schedule.next_sigma[step])
        return Step(latents=torch.where(regions[:, None], state, result.latents), clean=result.clean)

    def _held(self, family: GeneratorFamily, result: Step, schedule: Schedule, step: int) -> Step:
        """Adapted SARGD: the regions follow x̂_0 of the window's first step, in place of the low-resolution
        image."""
        if self._reference is None:
            self._reference = result.clean
            return result
        return self._renewed(result, self._reference, schedule, step, self._found(family, result.clean))

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
        return Step(latents=torch.where(regions[:, None], state, result.latents), clean=clean)

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
        rows = []
        for row, seed in enumerate(self._seeds):
            if row not in self._noise:
                # Torch's CPU generator uses 32 bits of a seed, so these must be mixed.
                mixed = np.random.SeedSequence([STREAM, self._config.seed, seed]).generate_state(1)[0]
                self._noise[row] = torch.Generator().manual_seed(int(mixed))
            rows.append(torch.randn(like.shape[1:], generator=self._noise[row]))
        return torch.stack(rows).to(like)


def mask_on_latents(mask: Tensor, like: Tensor) -> Tensor:
    """Resize a bool mask NHW of any size to the grid of NCHW latents: a latent is inside if any of its pixels
    is."""
    return F.adaptive_max_pool2d(mask[:, None].float(), like.shape[-2:])[:, 0] > 0
