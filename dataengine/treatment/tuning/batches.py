"""The losses of one batch of generated images: pixel-aware treatment, rewards, region constraint."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dataengine.diagnosis.detector import Detector, antialiased
from dataengine.errors import ConfigRefused, out_of_memory
from dataengine.quality.scorers import disagreement, saliency
from dataengine.treatment.config import TreatmentConfig
from dataengine.treatment.families.diffusion import Conditioning
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.objectives.batch import GeneratedBatch, confidence_maps
from dataengine.treatment.objectives.direct import direct_align, known_noise
from dataengine.treatment.objectives.region import region_mask
from dataengine.treatment.objectives.registry import active_objectives
from dataengine.treatment.objectives.rewards import open_rewards
from dataengine.treatment.sampling.sampler import encode, predict_clean, sample, size_of
from dataengine.treatment.tuning import progress as progress_file
from dataengine.treatment.tuning.constant_rewards import WatchedReward
from dataengine.treatment.tuning.encoded import Rows
from dataengine.treatment.tuning.progress import Weights

TOKENIZED = 1000
"""Number of prompts whose lengths are measured at once."""
NAMED = 3
"""Number of prompts listed in a warning."""


def shuffled_rows(count: int, start: int, length: int, seed: int) -> list[int]:
    """Rows `start` … `start + length − 1` of endless passes over `count` rows, each pass in a new random
    order (DiffDoctor, Algorithm 1: a pass over all prompts)."""
    passes = range(start // count, (start + length - 1) // count + 1)
    orders = np.concatenate([np.random.default_rng((seed, one)).permutation(count) for one in passes])
    first = start - passes[0] * count
    return [int(row) for row in orders[first : first + length]]


def warn_of_truncated_prompts(family: GeneratorFamily, prompts: Sequence[str]) -> None:
    """Warn of prompts beyond the generator's limit, naming the first of them."""
    chunks = (prompts[start : start + TOKENIZED] for start in range(0, len(prompts), TOKENIZED))
    if cut := [prompt for chunk in chunks for prompt in family.truncated(chunk)]:
        named = "; ".join(repr(prompt) for prompt in cut[:NAMED])
        more = f" and {len(cut) - NAMED} more" if len(cut) > NAMED else ""
        warnings.warn(
            f"{family.name} truncates {len(cut)} prompts beyond its limit: {named}{more}", stacklevel=2
        )


def used_rows(config: TreatmentConfig, count: int, processes: int) -> list[int]:
    """The rows of `count` prompts that the run generates images of, in the order of their first use."""
    drawn = config.updates * config.accumulation * config.batch * processes
    return shuffled_rows(count, 0, min(drawn, count), config.seed)


class Batches:
    """Samples batches of prompts and noise, and evaluates the images with the frozen detector and scorers.

    Treatment antialiases before the detector (see `antialiased`). A batch depends on the seed and its number
    alone, so that a resumed run sees the prompts in the order of one that was never interrupted.
    """

    def __init__(
        self,
        config: TreatmentConfig,
        family: GeneratorFamily,
        detector: Detector | None,
        prompts: Sequence[str],
        tell: Callable[[], None],
        encoded: Rows | None = None,
    ) -> None:
        """`tell` is called after every denoising step and decoding, and on the way back through them.

        `encoded` are the prompts' rows, encoded into memory if not given. Raises `ModelRefused` for rewards
        that do not load.
        """
        self.config, self.family, self.tell = config, family, tell
        self.detector = None if detector is None else antialiased(detector)
        if self.detector is not None:
            self.detector.requires_grad_(False)
            self.detector.eval()
        self.size = size_of(family, config.sampling)
        self.texts = list(prompts)
        self.prompts: Rows = encoded or encode(family, self.texts)
        self.rewards = open_rewards(config.rewards, family.device)
        self._watched = [WatchedReward(reward) for reward in self.rewards]
        self._weights: Weights = {}
        self._given: dict[str, Tensor] = {}

    @property
    def wanted(self) -> bool:
        """Whether any objective needs generated images."""
        return bool(active_objectives(self.config))

    def start_from(self, weights: Weights) -> None:
        """Store the LoRA as given, a possible reference of the region constraint."""
        self._weights = weights
        self._given = {name: weight.detach().clone() for name, weight in weights.items()}

    def terms(self, number: int, rng: torch.Generator) -> dict[str, Tensor]:
        """The weighted terms of all active objectives on batch `number` (from 0) of generated images, by
        name. Raises `NothingLearned` for a reward that says the same of every image."""
        config, family = self.config, self.family
        texts, conditioning, noise = self.inputs(number, rng)
        chain = self._chain(conditioning, noise, rng)
        untreated = mask = None
        if config.region:
            with torch.no_grad(), self._untreated():
                untreated = family.decode(chain(self.tell))
                mask = region_mask(self._faults(untreated, texts), config.region)
        images = family.decode(chain(self.tell))
        self.tell()
        if images.requires_grad:
            images.register_hook(lambda gradient: self.tell())
        batch = GeneratedBatch(
            images=images,
            prompts=texts,
            detect=self.detect,
            rewards=self._watched,
            untreated=untreated,
            mask=mask,
        )
        terms: dict[str, Tensor] = {}
        for objective, settings in active_objectives(config):
            terms |= objective(settings, batch)
        return terms

    def inputs(
        self, number: int, rng: torch.Generator, group: int = 1
    ) -> tuple[list[str], Conditioning, Tensor]:
        """The prompts of batch `number`, each `group` times in a row, also encoded, and noise for each,
        NCHW."""
        config, family = self.config, self.family
        prompts = config.batch // group
        drawn = shuffled_rows(len(self.texts), number * prompts, prompts, config.seed)
        rows = [row for row in drawn for _ in range(group)]
        seeds = torch.randint(2**62, (config.batch,), generator=rng).tolist()
        conditioning = self.prompts.rows(rows).to(family.device)
        return [self.texts[row] for row in rows], conditioning, family.initial_latents(seeds, self.size)

    def _chain(
        self, conditioning: Conditioning, noise: Tensor, rng: torch.Generator
    ) -> Callable[[Callable[[], None] | None], Tensor]:
        """Sample from this noise to clean latents, with gradient through the steps by `truncation`."""
        config, last = self.config, self.config.grad_steps
        if config.truncation == "direct":
            known = known_noise(self.family, config.direct, len(noise), rng)
            return partial(direct_align, self.family, conditioning, noise, config.sampling, known)
        if config.truncation == "single":
            at = config.sampling.steps - 1 - int(torch.randint(last, (), generator=rng))
            return partial(predict_clean, self.family, conditioning, noise, config.sampling, at)
        if config.truncation == "random":
            last = 1 + int(torch.randint(last, (), generator=rng))
        return partial(sample, self.family, conditioning, noise, config.sampling, last)

    def _faults(self, untreated: Tensor, texts: Sequence[str]) -> Tensor:
        """The map of the untreated images' faults, float32 NHW in [0, 1]."""
        assert self.config.region is not None
        if self.config.region.map == "detector":
            return self.detect(untreated)
        place = saliency if self.config.region.map == "saliency" else disagreement
        return torch.stack([place(reward, untreated, texts) for reward in self.rewards]).amax(0)

    def detect(self, images: Tensor) -> Tensor:
        """The detector's confidence, float NHW. Raises `ConfigRefused` when it does not support this size."""
        height, width = images.shape[-2:]
        trouble: object = "there is no detector"
        try:
            if self.detector is not None:
                confidence = confidence_maps(self.detector, images, self.config.checkpointing)
                if confidence.shape == (len(images), height, width):
                    return confidence
                trouble = f"its output has shape {tuple(confidence.shape)}"
        except (RuntimeError, ValueError) as error:
            if out_of_memory(error):
                raise
            trouble = str(error).partition("\n")[0]
        raise ConfigRefused(
            f"the detector must support the generator's {height}×{width} pixels; {trouble}. Choose "
            "another detector, or another sampling height and width"
        )

    @contextmanager
    def _untreated(self) -> Iterator[None]:
        """Context in which the generator is the region constraint's reference."""
        assert self.config.region is not None
        if self.config.region.reference == "base":
            with self.family.adapter.disabled():
                yield
            return
        with self.as_given():
            yield

    @contextmanager
    def as_given(self) -> Iterator[None]:
        """Context in which the generator answers as before the run, with the LoRA that it then had."""
        with self.with_weights(self._given):
            yield

    @contextmanager
    def with_weights(self, others: Mapping[str, Tensor]) -> Iterator[None]:
        """Context in which the generator answers with another state of its LoRA."""
        now = {name: weight.detach().clone() for name, weight in self._weights.items()}
        progress_file.set_weights(others, self._weights)
        try:
            yield
        finally:
            progress_file.set_weights(now, self._weights)
