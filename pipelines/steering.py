"""How images are corrected or guided while they are drawn: from settings to steppers, models opened.

Input: the section of a recipe, or the settings that an image was drawn with. Output: what
`sampling.generate` takes. Cost: opening the detector and the reward once for each call.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dataengine.config import Config
from dataengine.treatment.config import CorrectionConfig, GuidanceConfig
from pipelines.context import Context
from pipelines.steps import champion, opened

if TYPE_CHECKING:
    from dataengine.treatment.families import GeneratorFamily
    from dataengine.treatment.sampling import Steppers

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


def steering_of(context: Context, wanted: Mapping[str, Any]) -> Steering:
    """The steering among settings of either kind, the champion's id filled in where a detector is needed."""
    found = Steering.model_validate({name: wanted[name] for name in FIELDS if wanted.get(name)})
    if not found.needs_detector:
        return found.model_copy(update={"detector": ""})
    return found.model_copy(update={"detector": found.detector or champion(context).id})


def steppers_of(
    context: Context,
    steering: Steering,
    family: "GeneratorFamily",
    prompts: Sequence[str],
    seeds: Sequence[int],
) -> "Steppers | None":
    """What makes the steps of these images, guidance inside correction; None for plain sampling."""
    if steering.correction is None and steering.guidance is None:
        return None
    from dataengine.treatment.correction import correcting
    from dataengine.treatment.guidance import guiding
    from dataengine.treatment.objectives import open_rewards

    detector = opened(context, steering.detector).requires_grad_(False) if steering.detector else None
    guides = None
    if steering.guidance is not None:
        wanted = steering.guidance.reward
        reward = None if wanted is None else open_rewards([wanted], family.device)[0]
        guides = guiding(steering.guidance, prompts, detector, reward)
    if steering.correction is None:
        return guides
    return correcting(steering.correction, seeds, detector, guides)
