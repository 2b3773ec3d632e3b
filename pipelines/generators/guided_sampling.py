"""Correction and guidance of sampling: opens the models that the settings name, and builds steppers.

Input: the section of a recipe, or the settings that an image was generated with. Output: the steppers that
`sampling.generate` takes. Cost: opening the detector and the reward model once per call.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dataengine.config import Config
from dataengine.treatment.guided_sampling.config import CorrectionConfig, GuidanceConfig
from pipelines.runtime.context import Context
from pipelines.runtime.open_detector import champion_version, open_detector

if TYPE_CHECKING:
    from dataengine.treatment.families.family import GeneratorFamily
    from dataengine.treatment.sampling.sampler import Steppers


FIELDS = ("correction", "guidance", "detector")


class Steering(Config):
    """Correction and guidance of one image; stored with its settings, so that it can be regenerated."""

    correction: CorrectionConfig | None = None
    """See `GenerateConfig`."""
    guidance: GuidanceConfig | None = None
    """See `GenerateConfig`."""
    detector: str = ""
    """Id of the detector in use; empty if none is needed."""

    @property
    def needs_detector(self) -> bool:
        """Whether a trained detector is needed."""
        return any(each is not None and each.needs_detector for each in (self.correction, self.guidance))

    def settings(self) -> dict[str, Any]:
        """The settings to store with the image; empty for plain sampling."""
        if self.correction is None and self.guidance is None:
            return {}
        return self.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True)
class OpenSteering:
    """Correction and guidance with their models open."""

    settings: dict[str, Any]
    """The settings to store with the images; empty for plain sampling."""
    steppers: "Callable[[Sequence[str], Sequence[int]], Steppers | None]"
    """(prompts, seeds) -> the steppers of these images; None for plain sampling."""


def read_steering(context: Context, settings: Mapping[str, Any]) -> Steering:
    """The steering in a recipe's or an image's settings, with the champion's id if a detector is needed."""
    steering = Steering.model_validate(
        {name: settings[name] for name in FIELDS if settings.get(name) is not None}
    )
    if not steering.needs_detector:
        return steering.model_copy(update={"detector": ""})
    return steering.model_copy(update={"detector": steering.detector or champion_version(context).id})


def open_steering(context: Context, settings: Mapping[str, Any], family: "GeneratorFamily") -> OpenSteering:
    """Open the detector and reward model that the settings name; guidance runs inside correction."""
    steering = read_steering(context, settings)
    correction, guidance = steering.correction, steering.guidance
    if correction is None and guidance is None:
        return OpenSteering({}, lambda prompts, seeds: None)
    from dataengine.treatment.guided_sampling.correction import make_correctors
    from dataengine.treatment.guided_sampling.guidance import make_guides
    from dataengine.treatment.objectives.rewards import open_rewards

    detector = open_detector(context, steering.detector).requires_grad_(False) if steering.detector else None
    reward_config = guidance.reward if guidance is not None else None
    reward = None if reward_config is None else open_rewards([reward_config], family.device)[0]

    def steppers(prompts: Sequence[str], seeds: Sequence[int]) -> "Steppers | None":
        guides = None if guidance is None else make_guides(guidance, prompts, detector, reward)
        return guides if correction is None else make_correctors(correction, seeds, detector, guides)

    return OpenSteering(steering.settings(), steppers)
