"""Localized preference of a treatment: its pairs, encoded once, and the loss of each batch."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataengine.errors import ConfigRefused
from dataengine.treatment.config import PreferenceConfig, TreatmentConfig
from dataengine.treatment.families.diffusion import Conditioning
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.objectives.preference import (
    PairBatch,
    PreferencePairs,
    latent_cells,
    localized_preference,
)
from dataengine.treatment.sampling.sampler import size_of
from dataengine.treatment.tuning.batches import shuffled_rows
from dataengine.treatment.tuning.encoded import Rows, encode_pixels, encode_rows

Preference = Callable[[int, torch.Generator], Tensor]
"""Maps the number of a batch, from 0, and a CPU generator to a scalar loss, with its weight."""


def on_pairs(
    config: TreatmentConfig,
    family: GeneratorFamily,
    pairs: PreferencePairs | None,
    reference: Callable[[], AbstractContextManager[None]],
    folder: Path,
    tell: Callable[[], None],
) -> Preference | None:
    """The localized preference on these pairs, encoded once and kept in `folder`; None where the settings
    have none. `reference` is the context in which the family answers as its reference, `tell` is called after
    each piece. The pairs of a batch depend on the run's seed and the batch's number alone.

    Raises `ConfigRefused` without a pair.
    """
    if config.preference is None:
        return None
    if pairs is None or not len(pairs):
        raise ConfigRefused(
            "localized preference learns from pairs of a winner and a loser, but there are none; pass some "
            "as `pairs`, or set preference to null"
        )
    size, batch = size_of(family, config.sampling), config.sampling.batch
    pixels = partial(encode_pixels, family, size, batch)
    winners = encode_rows(folder / "winners", pairs.winners, pixels, tell)
    losers = encode_rows(folder / "losers", pairs.losers, pixels, tell)
    like = winners.rows([0])["latents"]

    def on_cells(masks: list[np.ndarray]) -> Conditioning:
        return Conditioning({"cells": latent_cells(masks, size, like)})

    cells = encode_rows(folder / "regions", pairs.masks, on_cells, tell)
    prompts = encode_rows(folder / "pair prompts", list(pairs.prompts), family.encode_prompts, tell)
    return partial(
        _pair_loss, config, config.preference, family, (winners, losers, cells, prompts), reference
    )


def _pair_loss(
    config: TreatmentConfig,
    preference: PreferenceConfig,
    family: GeneratorFamily,
    encoded: tuple[Rows, Rows, Rows, Rows],
    reference: Callable[[], AbstractContextManager[None]],
    number: int,
    rng: torch.Generator,
) -> Tensor:
    winners, losers, cells, prompts = encoded
    rows = shuffled_rows(len(winners), number * config.batch, config.batch, config.seed)
    pairs = PairBatch(
        winners=winners.rows(rows)["latents"].to(family.device),
        losers=losers.rows(rows)["latents"].to(family.device),
        cells=cells.rows(rows)["cells"].to(family.device),
        conditioning=prompts.rows(rows).to(family.device),
    )
    return preference.weight * localized_preference(
        family, pairs, preference, config.sampling, reference, rng
    )
