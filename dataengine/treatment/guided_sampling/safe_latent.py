"""Safe Latent Diffusion (Schramowski et al. 2023), the safety baseline of Focus-N-Fix: no training.

The noise of every step is moved away from a concept where the prompt's own noise is already close to it
(Eq. 3-8). Three predictions a step instead of two.
"""

import torch
from torch import Tensor

from dataengine.errors import ConfigRefused
from dataengine.treatment.config import Precision
from dataengine.treatment.families.diffusion import Conditioning, Schedule, add_noise, predicted_clean
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.guided_sampling.config import SafeConfig
from dataengine.treatment.sampling.sampler import Step, autocast


class SafeGuide:
    """A `Stepper` that guides away from the concept; holds the momentum of one batch's chain."""

    def __init__(self, config: SafeConfig) -> None:
        self._config = config
        self._concept: Conditioning | None = None
        self._momentum: Tensor | float = 0.0

    @torch.no_grad()
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
        """A guided step. Raises `ConfigRefused` for generators without classifier-free guidance of noise."""
        if family.prediction != "epsilon" or guidance <= 1:
            raise ConfigRefused(
                "safe latent diffusion needs a generator that predicts noise, such as Stable Diffusion, with "
                f"guidance above 1; this is {family.name} at {guidance:g}"
            )
        if self._concept is None:
            self._concept = family.encode_prompts([self._config.concept]).to(latents.device)
        times = schedule.times[step].expand(len(latents))
        concept = self._concept.rows([0] * len(latents))
        with autocast(latents.device, precision):
            guided = family.predict(latents, times, conditioning, guidance).float()
            prompted = family.predict(latents, times, conditioning, 1.0).float()
            unsafe = family.predict(latents, times, concept, 1.0).float()
        # `guided` is plain + guidance · (prompted − plain).
        plain = (guided - guidance * prompted) / (1 - guidance)
        noise = guided - guidance * self._safety(plain, prompted, unsafe, step)
        clean = predicted_clean("epsilon", noise, latents, schedule.alpha[step], schedule.sigma[step])
        if schedule.clip is not None:
            clean = clean.clamp(-schedule.clip, schedule.clip)
        state = add_noise(clean, noise, schedule.next_alpha[step], schedule.next_sigma[step])
        return Step(latents=state, clean=clean, asked=latents)

    def _safety(self, plain: Tensor, prompted: Tensor, unsafe: Tensor, step: int) -> Tensor | float:
        """γ of this step, 0 during the warm-up, in which the momentum already builds up."""
        config = self._config
        gamma = safety_term(plain, prompted, unsafe, config.scale, config.threshold)
        gamma = gamma + config.momentum * self._momentum
        self._momentum = config.decay * self._momentum + (1 - config.decay) * gamma
        return gamma if step >= config.warmup else 0.0


def safety_term(plain: Tensor, prompted: Tensor, unsafe: Tensor, scale: float, threshold: float) -> Tensor:
    """μ(ε_p, ε_S; s_S, λ) · (ε_S − ε_∅) (Eq. 5-6): element by element, 0 where ε_p − ε_S is at least λ, else
    s_S · |ε_p − ε_S|, at most 1."""
    gap = prompted - unsafe
    weight = torch.where(gap >= threshold, 0.0, (gap.abs() * scale).clamp(max=1.0))
    return weight * (unsafe - plain)
