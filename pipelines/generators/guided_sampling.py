"""How images are corrected or guided while they are drawn: from settings to steppers, models opened.

Input: the section of a recipe, or the settings that an image was drawn with. Output: what
`sampling.generate` takes. Cost: opening the detector and the reward once for each call.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dataengine.config import Config
from dataengine.treatment.config import CorrectionConfig, GuidanceConfig
from pipelines.runtime.context import Context
from pipelines.runtime.open_detector import champion_version, open_detector

if TYPE_CHECKING:
    from dataengine.treatment.families.family import GeneratorFamily
    from dataengine.treatment.sampling.sampler import Steppers


FIELDS = ("correction", "guidance", "detector")


class Steering(Config):
    """What steers one image's drawing; it stands with the image's settings, so that it can be drawn again."""

    correction: CorrectionConfig | None = None
    """See `GenerateConfig`."""
    guidance: GuidanceConfig | None = None
    """See `GenerateConfig`."""
    detector: str = ""
    """Id of the detector that takes part; empty when none does."""

    @property
    def needs_detector(self) -> bool:
        """Whether a trained detector takes part."""
        return any(each is not None and each.needs_detector for each in (self.correction, self.guidance))

    def settings(self) -> dict[str, Any]:
        """As kept with the image; empty for plain sampling."""
        if self.correction is None and self.guidance is None:
            return {}
        return self.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True)
class OpenSteering:
    """A way of drawing with its models opened."""

    settings: dict[str, Any]
    """What stands with the images' settings; empty for plain sampling."""
    steppers: "Callable[[Sequence[str], Sequence[int]], Steppers | None]"
    """(prompts, seeds) -> what makes the steps of these images; None for plain sampling."""


def read_steering(context: Context, wanted: Mapping[str, Any]) -> Steering:
    """The steering among settings of either kind, the champion's id filled in where a detector is needed."""
    found = Steering.model_validate({name: wanted[name] for name in FIELDS if wanted.get(name) is not None})
    if not found.needs_detector:
        return found.model_copy(update={"detector": ""})
    return found.model_copy(update={"detector": found.detector or champion_version(context).id})


def open_steering(context: Context, wanted: Mapping[str, Any], family: "GeneratorFamily") -> OpenSteering:
    """The steering among these settings with its detector and reward opened, guidance inside correction."""
    steering = read_steering(context, wanted)
    correction, guidance = steering.correction, steering.guidance
    if correction is None and guidance is None:
        return OpenSteering({}, lambda prompts, seeds: None)
    from dataengine.treatment.guided_sampling.correction import make_correctors
    from dataengine.treatment.guided_sampling.guidance import make_guides
    from dataengine.treatment.tuning.objectives import open_rewards

    detector = open_detector(context, steering.detector).requires_grad_(False) if steering.detector else None
    raised = guidance.reward if guidance is not None else None
    reward = None if raised is None else open_rewards([raised], family.device)[0]

    def steppers(prompts: Sequence[str], seeds: Sequence[int]) -> "Steppers | None":
        guides = None if guidance is None else make_guides(guidance, prompts, detector, reward)
        return guides if correction is None else make_correctors(correction, seeds, detector, guides)

    return OpenSteering(steering.settings(), steppers)
