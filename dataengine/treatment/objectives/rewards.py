"""Image-level rewards (DRaFT, AlignProp, ReFL): frozen scorers whose score is raised or lowered."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dataengine.quality.scorers import Reward
from dataengine.treatment.config import RewardConfig
from dataengine.treatment.objectives.batch import GeneratedBatch


def reward_loss(scores: Tensor, config: RewardConfig) -> Tensor:
    """The mean score times its weight, negated if the score is to be raised."""
    return config.weight * (scores.mean() if config.goal == "lower" else -scores.mean())


def open_rewards(configs: Sequence[RewardConfig], device: torch.device) -> list[Reward]:
    """Open the frozen scorers of the configs. Raises `ModelRefused` for one that does not load."""
    return [_open_reward(config, device) for config in configs]


def _open_reward(config: RewardConfig, device: torch.device) -> Reward:
    from dataengine.quality.scorers import ClassifierScorer, ClipScorer, PreferenceScorer

    if config.kind == "classifier":
        return ClassifierScorer(config.location, config.label, config.activation, device)
    if config.kind == "hpsv2":
        return PreferenceScorer(config.location, device)
    return ClipScorer(config.location, config.kind, device)


def reward_terms(settings: Sequence[RewardConfig], batch: GeneratedBatch) -> dict[str, Tensor]:
    """The weighted term of every scorer, in order."""
    return {
        f"reward {number} {scorer.name}": reward_loss(scorer.reward(batch.images, batch.prompts), one)
        for number, (scorer, one) in enumerate(zip(batch.rewards, settings, strict=True), start=1)
    }
