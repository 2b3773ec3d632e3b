"""Guidance without training (Focus-N-Fix): a detector or reward pulls each step, and no weight changes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dataengine.diagnosis.detector import Detector
from dataengine.diagnosis.dynamics import window_steps
from dataengine.errors import ConfigRefused
from dataengine.quality.scorers import Reward
from dataengine.treatment.config import GuidanceConfig, Precision
from dataengine.treatment.families.diffusion import Conditioning, Schedule, add_noise, broadcast_level
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.guided_sampling.correction import mask_on_latents
from dataengine.treatment.sampling.sampler import Step, Steppers, denoise
from dataengine.treatment.tuning.objectives import region_mask, reward_loss

REFERENCE = 16 * 128 * 128
"""Values of FLUX's latents at 1024 × 1024, which λ is given for."""
NO_GRADIENT = 1e-12


def make_guides(
    config: GuidanceConfig,
    prompts: Sequence[str],
    detector: Detector | None = None,
    reward: Reward | None = None,
) -> Steppers:
    """Makes guides for the batches of images of these prompts; `reward` is the opened `config.reward`.

    Raises `ConfigRefused` when something that guides is not given.
    """
    if config.needs_detector and detector is None:
        raise ConfigRefused("this guidance goes by a trained detector, and none was given")
    if (config.reward is None) != (reward is None):
        raise ConfigRefused("the guidance's reward and what was opened for it do not agree")

    def of(rows: slice) -> Guide:
        return Guide(config, prompts[rows], detector, reward)

    return of


class Guide:
    """A `Stepper` that moves the chain where it lies in the config's part of the way."""

    def __init__(
        self,
        config: GuidanceConfig,
        prompts: Sequence[str],
        detector: Detector | None = None,
        reward: Reward | None = None,
    ) -> None:
        """`prompts` are the images', one for each row of the latents."""
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
        """A guided step. Raises `ConfigRefused` when no step lies in the guided part."""
        guided = guided_steps(schedule, self._config)
        with torch.no_grad():
            if step not in guided:
                return denoise(family, latents, conditioning, schedule, step, guidance, precision)
            if self._config.kind == "clean":
                made = denoise(family, latents, conditioning, schedule, step, guidance, precision)
                progress = guided.index(step) / max(len(guided) - 1, 1)
                return Step(latents=self._moved(family, made, progress), clean=made.clean)
        with torch.enable_grad():
            start = latents.detach().requires_grad_()
            made = denoise(family, start, conditioning, schedule, step, guidance, precision)
            gradient = self._gradient(family, made.clean, start)
        return self._changed(family, latents, made, gradient, schedule, step)

    def _moved(self, family: GeneratorFamily, made: Step, progress: float) -> Tensor:
        """Next latents − λ·g/‖g‖, g the gradient of the mean squared confidence through VAE and detector
        alone."""
        with torch.enable_grad():
            clean = made.clean.detach().requires_grad_()
            gradient = self._gradient(family, clean, clean)
        size = gradient[0].numel()
        length = guidance_strength(self._config, progress) * (size / REFERENCE) ** 0.5
        norms = gradient.flatten(1).norm(dim=1)[:, None, None, None]
        move = length * gradient / norms.clamp(min=NO_GRADIENT)
        return made.latents + torch.where(norms > NO_GRADIENT, move, 0) * self._mask(family, made.clean)

    def _changed(
        self,
        family: GeneratorFamily,
        latents: Tensor,
        made: Step,
        gradient: Tensor,
        schedule: Schedule,
        step: int,
    ) -> Step:
        """ε̂ = ε − λ·√(1 − γ_t)·∇r ⊙ M, √(1 − γ_t) = σ_t; the paper prints +, which is right for a loss."""
        alpha, sigma = (
            broadcast_level(schedule.alpha[step], latents),
            broadcast_level(schedule.sigma[step], latents),
        )
        clean = made.clean.detach()
        norms = gradient.flatten(1).norm(dim=1)[:, None, None, None]
        gradient = gradient * (self._config.clip_norm / norms.clamp(min=self._config.clip_norm))
        noise = (latents - alpha * clean) / sigma
        noise = noise - self._config.scale * sigma * gradient * self._mask(family, clean)
        clean = (latents - sigma * noise) / alpha
        if schedule.clip is not None:
            clean = clean.clamp(-schedule.clip, schedule.clip)
        return Step(
            latents=add_noise(clean, noise, schedule.next_alpha[step], schedule.next_sigma[step]), clean=clean
        )

    def _gradient(self, family: GeneratorFamily, clean: Tensor, by: Tensor) -> Tensor:
        """∇ of what is to be raised; a sum over the images, each of which depends on its own row alone."""
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
    """Steps in the guided part. Raises `ConfigRefused` when there is none."""
    steps = window_steps(schedule.shares, config.start, config.stop)
    if not steps:
        raise ConfigRefused(
            f"none of the {len(schedule)} steps lies from {config.start:g} to {config.stop:g} of the way, so "
            "that nothing would be guided; choose a wider part or more steps"
        )
    return steps


def guidance_strength(config: GuidanceConfig, progress: float) -> float:
    """λ, falling quadratically from the first to the last strength as `progress` goes from 0 to 1."""
    return config.last_strength + (config.strength - config.last_strength) * (1 - progress) ** 2
