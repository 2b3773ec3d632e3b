"""Objectives on the forward process: DiffusionNFT on the generator's own images, and NormGuard's hinge.

No gradient flows through chain, VAE, detector or scorer, so that none of them needs one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dataengine.errors import NothingLearned
from dataengine.treatment.config import NftConfig, TreatmentConfig
from dataengine.treatment.families.diffusion import Conditioning, Schedule, add_noise, training_target
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.objectives.nft import (
    cell_rewards,
    nft_loss,
    old_policy_decay,
    optimality,
    update_old_policy,
)
from dataengine.treatment.objectives.norm import log_norm_ratio, norm_hinge
from dataengine.treatment.sampling.sampler import autocast, denoise, guidance_of, sample
from dataengine.treatment.tuning.batches import Batches
from dataengine.treatment.tuning.progress import Weights

PATIENCE = 10
"""First updates of a run that may all find constant rewards before it is refused."""
CONSTANT = "nft_constant"
"""Column of the history: the share of an update's batches whose rewards were constant."""

Piece = Callable[[], dict[str, Tensor]]
"""Weighted terms by name, scalars, with gradient; a part of an update, so that one graph is alive at a
time."""


@dataclass(frozen=True, kw_only=True)
class Noised:
    """Clean latents with the noise and the levels that they are noised with; first axes are the batch."""

    clean: Tensor
    noise: Tensor
    times: Tensor
    alpha: Tensor
    sigma: Tensor

    def rows(self, rows: slice) -> "Noised":
        """Some images of it."""
        return Noised(
            clean=self.clean[rows],
            noise=self.noise[rows],
            times=self.times[rows],
            alpha=self.alpha[rows],
            sigma=self.sigma[rows],
        )

    @property
    def latents(self) -> Tensor:
        """x_t."""
        return add_noise(self.clean, self.noise, self.alpha, self.sigma)


class ForwardProcess:
    """The pieces of an update's forward-process objectives, and the old policy that draws their images.

    A piece depends on the seed, the batch's number and the old policy's weights alone. In several processes
    each normalises the rewards of its own batch.
    """

    def __init__(
        self, config: TreatmentConfig, batches: Batches, weights: Weights, old: dict[str, Tensor]
    ) -> None:
        """`old` are the old policy's weights, kept up to date in place; empty in a fresh run."""
        self.config, self.batches, self.weights, self.old = config, batches, weights, old
        self.nft = config.nft if config.nft is not None and config.nft.weight else None
        self._constant: list[bool] = []
        self._reward: list[float] = []
        if self.nft is not None:
            device = batches.family.device
            given = old or {name: weight.detach().clone() for name, weight in weights.items()}
            old.update({name: given[name].to(device) for name in weights})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the terms, which every process has, whether or not a batch gives any."""
        nft, norm = self.nft, self.config.norm
        kl = nft is not None and nft.kl
        return (*(["nft"] if nft else []), *(["nft_kl"] if kl else []), *(["norm"] if norm else []))

    @property
    def at_once(self) -> int:
        """Images that are drawn, judged and predicted at once."""
        return 1 if self.config.checkpointing else self.config.batch

    def pieces(self, number: int, rng: torch.Generator) -> Iterator[Piece]:
        """The pieces of batch `number` (from 0), whose terms add up to its mean over images and noise levels.
        A batch of constant rewards has none and is counted."""
        if self.nft is None:
            if self.config.norm is not None:
                yield partial(self._norm_alone, number, rng)
            return
        config, settings, family = self.config, self.nft, self.batches.family
        texts, conditioning, noise = self.batches.inputs(number, rng, settings.group)
        with torch.no_grad(), self.batches.with_weights(self.old):
            clean, rewards = self._drawn(texts, conditioning, noise)
        good = optimality(rewards, settings.group, settings.clip)
        self._constant.append(good is None)
        self._reward.append(float(rewards.mean()))
        drawn = random_levels(config, settings, family, clean, rng)
        if good is None:
            return
        for noised in drawn:
            for start in range(0, config.batch, self.at_once):
                rows = slice(start, start + self.at_once)
                share = len(clean[rows]) / len(clean) / settings.times
                yield partial(self._piece, noised.rows(rows), conditioning.rows(rows), good[rows], share)

    def _drawn(
        self, texts: Sequence[str], conditioning: Conditioning, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Clean latents of the old policy, NCHW, and the rewards of their cells, N1hw."""
        drawn, rewards = [], []
        for start in range(0, len(noise), self.at_once):
            rows = slice(start, start + self.at_once)
            clean = sample(
                self.batches.family,
                conditioning.rows(rows),
                noise[rows],
                self.config.sampling,
                on_step=self.batches.tell,
            )
            rewards.append(self._judged(clean, texts[rows]).to(clean.device))
            drawn.append(clean)
            self.batches.tell()
        return torch.cat(drawn), torch.cat(rewards)

    def _judged(self, clean: Tensor, texts: Sequence[str]) -> Tensor:
        assert self.nft is not None
        images = self.batches.family.decode(clean)
        if self.nft.reward == "scorers":
            signs = [one.weight if one.goal == "raise" else -one.weight for one in self.config.rewards]
            scored = [
                sign * scorer.reward(images, texts)
                for sign, scorer in zip(signs, self.batches.rewards, strict=True)
            ]
            return torch.stack(scored).sum(0).float().reshape(-1, 1, 1, 1)
        cells = (clean.shape[2], clean.shape[3]) if self.nft.cells else (1, 1)
        return cell_rewards(self.batches.detect(images), cells, self.nft.reward)

    def _piece(
        self, noised: Noised, conditioning: Conditioning, good: Tensor, share: float
    ) -> dict[str, Tensor]:
        assert self.nft is not None
        config, settings = self.config, self.nft
        answer = partial(predicted, self.batches.family, noised, conditioning, config)
        with torch.no_grad():
            with self.batches.with_weights(self.old):
                old = answer()
            reference = None
            if settings.kl or config.norm is not None:
                with self.batches.as_given():
                    reference = answer()
        output = answer()
        target = training_target(self.batches.family.prediction, noised.clean, noised.noise)
        loss = nft_loss(output, old, target, noised.sigma, good, settings.beta, settings.adaptive)
        # Undoes the division of the rewards by c, as in the authors' code.
        terms = {"nft": share * settings.weight * settings.clip * loss.mean()}
        if settings.kl and reference is not None:
            distance = (output - reference).pow(2).mean()
            terms["nft_kl"] = share * settings.weight * settings.kl * distance
        if config.norm is not None and reference is not None:
            hinge = norm_hinge(log_norm_ratio(output, reference), config.norm.margin)
            terms["norm"] = share * config.norm.weight * hinge
        self.batches.tell()
        return terms

    def _norm_alone(self, number: int, rng: torch.Generator) -> dict[str, Tensor]:
        """The hinge at a random step of the given generator's own chain, with the prompts of the batch."""
        assert self.config.norm is not None
        _, conditioning, noise = self.batches.inputs(number, rng)
        family, sampling = self.batches.family, self.config.sampling
        schedule = family.schedule(sampling.steps, noise)
        at = int(torch.randint(len(schedule), (), generator=rng))
        with torch.no_grad(), self.batches.as_given():
            states = states_of(self.config, family, conditioning, noise, schedule, at)
            reference = answer_at(self.config, family, conditioning, schedule, at, states[-1])
        output = answer_at(self.config, family, conditioning, schedule, at, states[-1])
        hinge = norm_hinge(log_norm_ratio(output, reference), self.config.norm.margin)
        return {"norm": self.config.norm.weight * hinge}

    def advance(self, update: int) -> None:
        """Let the old policy follow after update `update`, from 1."""
        if self.nft is not None:
            decay = old_policy_decay(update, self.nft.flat, self.nft.rate, self.nft.most)
            update_old_policy(self.old, dict(self.weights), decay)

    def figures(self) -> dict[str, float]:
        """Columns of the history about the update that was made, and forget it."""
        if self.nft is None or not self._constant:
            return {}
        found = {
            "nft_reward": sum(self._reward) / len(self._reward),
            CONSTANT: sum(self._constant) / len(self._constant),
        }
        self._constant, self._reward = [], []
        return found

    def require_rewards(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Raises `NothingLearned` where all of the first `PATIENCE` updates found constant rewards."""
        first = history[:PATIENCE]
        if len(history) == PATIENCE and all(row.get(CONSTANT) == 1 for row in first):
            raise NothingLearned(
                f"the rewards of the first {PATIENCE} updates are the same for all images of a prompt, so "
                "there is nothing to learn from them; check that the detector or scorer finds anything in "
                "this generator's images, or raise nft.group"
            )


def random_levels(
    config: TreatmentConfig, settings: NftConfig, family: GeneratorFamily, clean: Tensor, rng: torch.Generator
) -> list[Noised]:
    """The same latents at `settings.times` noise levels; times and noise come from `rng`, a CPU generator."""
    found = []
    schedule = family.schedule(config.sampling.steps, clean)
    count = len(clean)
    steps = torch.stack([torch.randperm(len(schedule), generator=rng) for _ in range(count)])
    for number in range(settings.times):
        if settings.at == "steps":
            chosen = steps[:, number]
            times, alpha, sigma = (
                level.cpu()[chosen] for level in (schedule.times, schedule.alpha, schedule.sigma)
            )
        else:
            times = family.random_times(count, rng)
            alpha, sigma = family.levels(times)
        noise = torch.randn(clean.shape, generator=rng).to(clean.device)
        found.append(Noised(clean=clean, noise=noise, times=times.to(clean.device), alpha=alpha, sigma=sigma))
    return found


def predicted(
    family: GeneratorFamily, noised: Noised, conditioning: Conditioning, config: TreatmentConfig
) -> Tensor:
    """The generator's ordinary prediction, float32 NCHW, without extrapolation by guidance."""
    with autocast(noised.clean.device, config.sampling.precision):
        output = family.predict(noised.latents, noised.times, conditioning, family.training_guidance)
    return output.float()


def states_of(
    config: TreatmentConfig,
    family: GeneratorFamily,
    conditioning: Conditioning,
    noise: Tensor,
    schedule: Schedule,
    last: int,
) -> list[Tensor]:
    """The states x_t before steps 0 … `last` of a chain."""
    guidance, states = guidance_of(family, config.sampling), [noise]
    for step in range(last):
        result = denoise(
            family, states[-1], conditioning, schedule, step, guidance, config.sampling.precision
        )
        states.append(result.latents)
    return states


def answer_at(
    config: TreatmentConfig,
    family: GeneratorFamily,
    conditioning: Conditioning,
    schedule: Schedule,
    step: int,
    latents: Tensor,
) -> Tensor:
    """The generator's output at a step of the chain, float32 NCHW."""
    times = schedule.times[step].expand(len(latents))
    with autocast(latents.device, config.sampling.precision):
        return family.predict(latents, times, conditioning, guidance_of(family, config.sampling)).float()


class NormWatch:
    """log ‖v‖/‖v_ref‖ over the steps of the given generator's chains of a few prompts: a figure of the
    quality guard. States and outputs of the reference are kept, so that a measurement is one prediction a
    step."""

    IMAGES = 8
    """Images that it is measured on."""

    def __init__(self, config: TreatmentConfig, family: GeneratorFamily, encoded: Any, noise: Tensor) -> None:
        """`encoded` are the conditioning of the images, and `noise` where their chains begin, NCHW."""
        self.config, self.family = config, family
        self.conditioning = encoded.rows(range(len(noise))).to(family.device)
        self.schedule = family.schedule(config.measured.steps, noise)
        with torch.no_grad():
            self.states = states_of(
                config, family, self.conditioning, noise, self.schedule, len(self.schedule) - 1
            )
            self.references = [self._answer(step) for step in range(len(self.schedule))]

    def _answer(self, step: int) -> Tensor:
        return answer_at(self.config, self.family, self.conditioning, self.schedule, step, self.states[step])

    @torch.no_grad()
    def measure(self) -> float:
        """The mean over images and steps. Raises `InputRefused` for a norm of zero."""
        ratios = [
            log_norm_ratio(self._answer(step), reference) for step, reference in enumerate(self.references)
        ]
        return float(torch.cat(ratios).mean())
