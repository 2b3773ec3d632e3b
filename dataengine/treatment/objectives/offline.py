"""Offline regularisation (DiffDoctor, Eq. 3): the ordinary diffusion loss on artifact-free images."""

import torch
from torch import Tensor

from dataengine.treatment.config import OfflineConfig, Precision
from dataengine.treatment.families.diffusion import Conditioning, add_noise, shift_times, training_target
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.sampling.sampler import autocast


def offline_loss(
    family: GeneratorFamily,
    clean: Tensor,
    conditioning: Conditioning,
    config: OfflineConfig,
    rng: torch.Generator,
    precision: Precision = "float32",
) -> Tensor:
    """The ordinary diffusion loss on latents of artifact-free images: (z_T − z_0) − v_θ(z_t, t), or ε −
    ε_θ.

    Reduction: the mean squared error over all elements of the batch, where the paper gives a norm (Eq. 3).
    Times and noise come from `rng`, a CPU generator.
    """
    times = family.random_times(len(clean), rng)
    if family.prediction == "flow" and config.times == "logit-normal":
        times = torch.randn(len(clean), generator=rng).sigmoid()
    elif family.prediction == "flow" and config.times == "shifted":
        times = shift_times(times, clean.shape[-2] * clean.shape[-1] // 4)
    noise = torch.randn(clean.shape, generator=rng).to(clean.device)
    alpha, sigma = family.levels(times)
    latents = add_noise(clean, noise, alpha, sigma)
    with autocast(clean.device, precision):
        output = family.predict(latents, times.to(clean.device), conditioning, family.training_guidance)
    return (output.float() - training_target(family.prediction, clean, noise)).pow(2).mean()
