"""Correction while an image is drawn (ASCED, Sec. 3.3), and its baselines: steppers around a family's step.

The states that are written are those after a step: x_t of the paper is the next latents, at their own level.
An image without regions keeps the bits of uncorrected sampling.
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
"""Sets the noise of corrections apart from that which images begin with."""


def make_correctors(
    config: CorrectionConfig,
    seeds: Sequence[int],
    detector: Detector | None = None,
    inner: Steppers | None = None,
) -> Steppers:
    """Makes correctors for the batches of images with these seeds.

    Raises `ConfigRefused` when regions come from a detector and none is given.
    """
    if config.needs_detector and detector is None:
        raise ConfigRefused("this correction takes its regions from a trained detector, and none was given")

    def of(rows: slice) -> Corrector:
        return Corrector(config, seeds[rows], detector, denoise if inner is None else inner(rows))

    return of


class Corrector:
    """A `Stepper` for one batch and one chain: watches the window, and corrects inside the regions."""

    def __init__(
        self,
        config: CorrectionConfig,
        seeds: Sequence[int],
        detector: Detector | None = None,
        inner: Stepper = denoise,
    ) -> None:
        """`seeds` are the images', one for each row of the latents."""
        self.regions: Tensor | None = None
        """Bool NHW over latents: what was corrected last; None before the first correction."""
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
        """The step that `inner` makes, corrected. Raises `ConfigRefused` when too few steps are in the
        window, or the last one is: nothing is drawn after it."""
        steps = watched_steps(family, schedule, latents, self._config.dynamics)
        if steps[-1] == len(schedule) - 1 and self._config.method != "clipping":
            raise ConfigRefused(
                f"the window's last step is the last of {len(schedule)}, and nothing is drawn after it that "
                f"could use a correction: take dynamics.stop above {schedule.shares[-1]:.3g}"
            )
        made = self._inner(family, latents, conditioning, schedule, step, guidance, precision)
        self._cleans.append(made.clean)
        if step not in steps:
            return made
        alpha = schedule.alpha[step]
        if self._config.regions == "dynamics":
            self._frames.append(frames_of(family, latents, made.clean, alpha, self._config.dynamics))
        if self._config.method == "clipping":
            return self._clipped(family, latents, made, schedule, step)
        if self._config.method == "sargd":
            return self._held(family, made, schedule, step)
        if step != steps[-1] and not self._config.repeated:
            return made
        return self._renewed(made, self._base(made), schedule, step, self._found(family, made.clean))

    def _base(self, made: Step) -> Tensor:
        """The x̂_0 that the region starts again from."""
        if self._config.method == "ttc":
            return made.clean + self._config.gamma * self._drawn(made.clean)
        return self._cleans[0]

    def _renewed(self, made: Step, clean: Tensor, schedule: Schedule, step: int, regions: Tensor) -> Step:
        """Eq. 6: q_sample(x̂_0 + γ·ξ, t) inside the regions, with fresh noise, the step as it is outside."""
        state = add_noise(clean, self._drawn(clean), schedule.next_alpha[step], schedule.next_sigma[step])
        return Step(latents=torch.where(regions[:, None], state, made.latents), clean=made.clean)

    def _held(self, family: GeneratorFamily, made: Step, schedule: Schedule, step: int) -> Step:
        """SARGD as adapted: the regions follow x̂_0 of the window's first step, which stands in for the
        low-resolution image."""
        if self._reference is None:
            self._reference = made.clean
            return made
        return self._renewed(made, self._reference, schedule, step, self._found(family, made.clean))

    def _clipped(
        self, family: GeneratorFamily, latents: Tensor, made: Step, schedule: Schedule, step: int
    ) -> Step:
        """|Δ(w·s)| limited to τ inside the regions found so far; x̂_0 and ε̂ follow the clipped score."""
        alpha, sigma = (
            broadcast_level(schedule.alpha[step], latents),
            broadcast_level(schedule.sigma[step], latents),
        )
        rest = latents / alpha
        score = made.clean - rest
        if not self._scores:
            self._scores.append(score)
            return made
        limits = self._limits(score)
        regions = self._found(family, made.clean)
        bounded = self._scores[-1] + (score - self._scores[-1]).clamp(-limits, limits)
        clipped = torch.where(regions[:, None], bounded, score)
        self._scores.append(clipped)
        clean = clipped + rest
        noise = (latents - alpha * clean) / sigma
        state = add_noise(clean, noise, schedule.next_alpha[step], schedule.next_sigma[step])
        return Step(latents=torch.where(regions[:, None], state, made.latents), clean=clean)

    def _limits(self, score: Tensor) -> Tensor:
        """τ of Eq. 4 for this step, one per image, N111."""
        config = self._config.dynamics.model_copy(update={"form": "paper"})
        scores = torch.stack([*self._scores, score]).transpose(0, 1).detach().float().cpu().numpy()
        limits = [float(thresholds(np.abs(np.diff(each, axis=0)), config)[1][-1]) for each in scores]
        return score.new_tensor(limits)[:, None, None, None]

    def _found(self, family: GeneratorFamily, clean: Tensor) -> Tensor:
        """Where this step corrects, bool NHW over latents; nowhere in images that are broken all over."""
        if self._config.regions == "everywhere":
            self.regions = torch.ones_like(clean[:, 0], dtype=torch.bool)
            return self.regions
        found = self._by_dynamics(clean) if self._detector is None else self._by_detector(family, clean)
        local = found.float().mean((1, 2)) <= self._config.cover
        self.regions = found & local[:, None, None]
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
        """Gaussian noise, every image's from its own seed."""
        rows = []
        for row, seed in enumerate(self._seeds):
            if row not in self._noise:
                # Torch's generator on the CPU reads 32 bits of a seed, so that these have to be mixed.
                mixed = np.random.SeedSequence([STREAM, self._config.seed, seed]).generate_state(1)[0]
                self._noise[row] = torch.Generator().manual_seed(int(mixed))
            rows.append(torch.randn(like.shape[1:], generator=self._noise[row]))
        return torch.stack(rows).to(like)


def mask_on_latents(mask: Tensor, like: Tensor) -> Tensor:
    """A bool mask NHW of any size, on the grid of NCHW latents: inside is what any pixel inside lies on."""
    return F.adaptive_max_pool2d(mask[:, None].float(), like.shape[-2:])[:, 0] > 0
