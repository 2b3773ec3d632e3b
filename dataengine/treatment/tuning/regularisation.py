"""The offline regularisation of a treatment: the diffusion loss on artifact-free images (DiffDoctor, Eq. 3),
or the generator's own answers on its own trajectories (ours)."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataengine.errors import ConfigRefused
from dataengine.treatment.config import OfflineConfig, SamplingConfig, TreatmentConfig
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.objectives.offline import offline_loss
from dataengine.treatment.sampling.sampler import autocast, denoise, guidance_of, size_of
from dataengine.treatment.tuning.batches import Batches
from dataengine.treatment.tuning.encoded import Rows, draw_rows, encode_pixels, encode_rows

Regularisation = Callable[[int, torch.Generator], Tensor]
"""Maps the number of a batch, from 0, and a CPU generator to a scalar loss, without its weight."""


def on_images(
    config: TreatmentConfig,
    family: GeneratorFamily,
    images: Sequence[np.ndarray] | np.ndarray | None,
    captions: Sequence[str],
    folder: Path,
    tell: Callable[[], None],
) -> Regularisation:
    """The ordinary diffusion loss on artifact-free images, uint8 HWC, encoded once and kept in `folder`.

    `tell` is called after each piece. Raises `ConfigRefused` unless there are images with one caption each.
    """
    if images is None or len(images) == 0 or len(images) != len(captions):
        raise ConfigRefused(
            "offline regularisation needs artifact-free images with one caption each, but there are "
            f"{0 if images is None else len(images)} images and {len(captions)} captions. "
            "Add images, or set offline to null"
        )
    assert config.offline is not None
    sampling = config.sampling
    latents = partial(encode_pixels, family, size_of(family, sampling), sampling.batch)
    clean = encode_rows(folder / "images", images, latents, tell)
    encoded = encode_rows(folder / "captions", list(captions), family.encode_prompts, tell)
    choose = partial(draw_rows, len(clean), config.batch, config.paired)
    return partial(_image_loss, family, clean, encoded, config.offline, sampling, choose)


def _image_loss(
    family: GeneratorFamily,
    clean: Rows,
    captions: Rows,
    offline: OfflineConfig,
    sampling: SamplingConfig,
    choose: Callable[[torch.Generator], Tensor],
    number: int,
    rng: torch.Generator,
) -> Tensor:
    rows = choose(rng)
    latents = clean.rows(rows)["latents"].to(family.device)
    conditioning = captions.rows(rows).to(family.device)
    return offline_loss(family, latents, conditioning, offline, rng, sampling.precision)


def on_own_trajectories(batches: Batches, number: int, rng: torch.Generator) -> Tensor:
    """Mean of (v_θ(x_t, t) − v(x_t, t))² over all elements, where v is the generator as given, and x_t its
    state at a random step of its own chain from noise, with the prompts of batch `number`.

    The targets come from the few steps that a distilled generator was made for, so that it keeps them.
    """
    config, family = batches.config, batches.family
    _, conditioning, noise = batches.inputs(number, rng)
    sampling = config.measured
    schedule, guidance = family.schedule(sampling.steps, noise), guidance_of(family, sampling)
    at = int(torch.randint(len(schedule), (), generator=rng))

    def answer(latents: Tensor) -> Tensor:
        times = schedule.times[at].expand(len(latents))
        with autocast(latents.device, sampling.precision):
            return family.predict(latents, times, conditioning, guidance).float()

    with torch.no_grad(), batches.as_given():
        latents = noise
        for step in range(at):
            latents = denoise(
                family, latents, conditioning, schedule, step, guidance, sampling.precision
            ).latents
        target = answer(latents)
    return (answer(latents) - target).pow(2).mean()
