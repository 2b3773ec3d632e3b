"""The objectives on generated images, with gradient through them, by their settings."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dataengine.treatment.config import TreatmentConfig
from dataengine.treatment.objectives.batch import GeneratedBatch
from dataengine.treatment.objectives.pixel import pixel_terms
from dataengine.treatment.objectives.region import region_terms
from dataengine.treatment.objectives.rewards import reward_terms

Objective = Callable[[Any, GeneratedBatch], dict[str, Tensor]]
"""Maps an objective's settings and a batch to its weighted terms, scalars, by the name of their curve."""

OBJECTIVES: dict[str, Objective] = {"pixel": pixel_terms, "rewards": reward_terms, "region": region_terms}
"""The objectives by the field of `TreatmentConfig` with their settings."""


def active_objectives(config: TreatmentConfig) -> list[tuple[Objective, Any]]:
    """The objectives on generated images that have settings and a weight above 0, with their settings.

    Rewards by which DiffusionNFT judges its images have no gradient of their own.
    """
    taken = {"rewards"} if config.nft is not None and config.nft.reward == "scorers" else set()
    found = [(each, getattr(config, name)) for name, each in OBJECTIVES.items() if name not in taken]
    return [
        (objective, settings) for objective, settings in found if settings and getattr(settings, "weight", 1)
    ]
