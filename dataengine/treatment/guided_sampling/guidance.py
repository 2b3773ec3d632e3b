"""Guidance without training (Focus-N-Fix): a detector, reward or concept shifts each step; no weight
changes."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dataengine.diagnosis.detector import Detector
from dataengine.diagnosis.dynamics import window_steps
from dataengine.errors import ConfigRefused
from dataengine.quality.scorers import Reward
from dataengine.treatment.config import Precision
from dataengine.treatment.families.diffusion import Conditioning, Schedule, add_noise, broadcast_level
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.guided_sampling.config import GuidanceConfig, SafeConfig
from dataengine.treatment.guided_sampling.safe_latent import SafeGuide
from dataengine.treatment.objectives.region import region_mask
from dataengine.treatment.objectives.rewards import reward_loss
from dataengine.treatment.sampling.sampler import Step, Steppers, denoise, mask_on_latents

REFERENCE = 16 * 128 * 128
"""Number of values of FLUX's latents at 1024 × 1024, for which λ is given."""
NO_GRADIENT = 1e-12


def make_guides(
    config: GuidanceConfig,
    prompts: Sequence[str],
    detector: Detector | None = None,
    reward: Reward | None = None,
) -> Steppers:
    """A factory of guides for batches of the images of these prompts; `reward` is the opened `config.reward`.

    Raises `ConfigRefused` when a needed detector or reward is not passed.
    """
    if config.kind == "safe":
        return lambda rows: SafeGuide(config.safe or SafeConfig())
    if config.needs_detector and detector is None:
        raise ConfigRefused("this guidance needs a trained detector; pass one")
    if (config.reward is None) != (reward is None):
        raise ConfigRefused(
            "the guidance's config.reward and the opened reward do not agree; open config.reward"
        )

    def of(rows: slice) -> Guide:
        return Guide(config, prompts[rows], detector, reward)

    return of


class Guide:
    """A `Stepper` that guides the steps between `start` and `stop` of the config."""

    def __init__(
        self,
        config: GuidanceConfig,
        prompts: Sequence[str],
        detector: Detector | None = None,
        reward: Reward | None = None,
    ) -> None:
        """`prompts` are those of the images, one per row of the latents."""
        self._config = config
        self._prompts = list(prompts)
        self._detector = detector
        self._reward = reward

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
        """A guided step. Raises `ConfigRefused` when no step is in the guided part."""
        guided = guided_steps(schedule, self._config)
        with torch.no_grad():
            if step not in guided:
                return denoise(family, latents, conditioning, schedule, step, guidance, precision)
            if self._config.kind == "clean":
                result = denoise(family, latents, conditioning, schedule, step, guidance, precision)
                progress = guided.index(step) / max(len(guided) - 1, 1)
                return replace(result, latents=self.move(family, result, progress))
        with torch.enable_grad():
            start = latents.detach().requires_grad_()
            result = denoise(family, start, conditioning, schedule, step, guidance, precision)
            gradient = self._gradient(family, result.clean, start)
        return self._changed(family, latents, result, gradient, schedule, step)

    def move(self, family: GeneratorFamily, result: Step, progress: float) -> Tensor:
        """Next latents − λ·g/‖g‖, g the gradient of the mean squared confidence through VAE and detector
        alone; `progress` goes from 0 at the first guided step to 1 at the last (DIAMOND, arXiv
        2602.00883)."""
        with torch.enable_grad():
            clean = result.clean.detach().requires_grad_()
            gradient = self._gradient(family, clean, clean)
        size = gradient[0].numel()
        length = guidance_strength(self._config, progress) * (size / REFERENCE) ** 0.5
        norms = gradient.flatten(1).norm(dim=1)[:, None, None, None]
        move = length * gradient / norms.clamp(min=NO_GRADIENT)
        return result.latents + torch.where(norms > NO_GRADIENT, move, 0) * self._mask(family, result.clean)

    def _changed(
        self,
        family: GeneratorFamily,
        latents: Tensor,
        result: Step,
        gradient: Tensor,
        schedule: Schedule,
        step: int,
    ) -> Step:
        """ε̂ = ε − λ·√(1 − γ_t)·∇r ⊙ M, √(1 − γ_t) = σ_t; the paper's + applies to a loss."""
        alpha, sigma = (
            broadcast_level(schedule.alpha[step], latents),
            broadcast_level(schedule.sigma[step], latents),
        )
        clean = result.clean.detach()
        norms = gradient.flatten(1).norm(dim=1)[:, None, None, None]
        gradient = gradient * (self._config.clip_norm / norms.clamp(min=self._config.clip_norm))
        noise = (latents - alpha * clean) / sigma
        noise = noise - self._config.scale * sigma * gradient * self._mask(family, clean)
        clean = (latents - sigma * noise) / alpha
        if schedule.clip is not None:
            clean = clean.clamp(-schedule.clip, schedule.clip)
        state = add_noise(clean, noise, schedule.next_alpha[step], schedule.next_sigma[step])
        return Step(latents=state, clean=clean, asked=latents)

    def _gradient(self, family: GeneratorFamily, clean: Tensor, by: Tensor) -> Tensor:
        """Gradient of the objective to raise; summed over the images, each of which depends on its own row
        only."""
        images = family.decode(clean)
        if self._reward is None:
            assert self._detector is not None
            value = -self._detector.confidence(images).square().mean((1, 2)).sum()
        else:
            assert self._config.reward is not None
            scores = self._reward.reward(images, self._prompts)
            value = -len(images) * reward_loss(scores, self._config.reward)
        return torch.autograd.grad(value, by)[0].detach()

    def _mask(self, family: GeneratorFamily, clean: Tensor) -> Tensor | float:
        """M over latents, N1HW in {0, 1}; 1 without a region."""
        if self._config.region is None:
            return 1.0
        assert self._detector is not None
        with torch.no_grad():
            confidence = self._detector.confidence(family.decode(clean))
        return mask_on_latents(region_mask(confidence, self._config.region) > 0, clean)[:, None].float()


def guided_steps(schedule: Schedule, config: GuidanceConfig) -> list[int]:
    """Indices of the steps in the guided part. Raises `ConfigRefused` when there is none."""
    steps = window_steps(schedule.shares, config.start, config.stop)
    if not steps:
        raise ConfigRefused(
            f"none of the {len(schedule)} steps lies between {config.start:g} and {config.stop:g}, so "
            "nothing would be guided; widen start and stop, or use more steps"
        )
    return steps


def guidance_strength(config: GuidanceConfig, progress: float) -> float:
    """λ, falling quadratically from the first to the last strength as `progress` goes from 0 to 1."""
    return config.last_strength + (config.strength - config.last_strength) * (1 - progress) ** 2
