"""A generator family as the canvas of a repair."""

from collections.abc import Sequence

import numpy as np

from dataengine.masks import Mask
from dataengine.records import Report, no_report
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.family import GeneratorFamily
from dataengine.treatment.guided_sampling.inpainting import inpaint
from dataengine.treatment.repair.config import RepairConfig
from dataengine.treatment.repair.paste import Pixels
from dataengine.treatment.repair.repair import Canvas


def canvas_of(
    family: GeneratorFamily,
    prompt: str,
    sampling: SamplingConfig,
    config: RepairConfig,
    report: Report = no_report,
) -> Canvas:
    """The family's inpainting with one prompt; `report` is called at every step."""

    def redraw(crops: Sequence[Pixels], masks: Sequence[Mask], seeds: Sequence[int]) -> Sequence[Pixels]:
        prompts = [prompt] * len(crops)
        return list(
            inpaint(
                family,
                np.stack(crops),
                np.stack(masks),
                prompts,
                seeds,
                sampling,
                config.repeats,
                report,
                strength=config.strength,
                feather=config.blend,
                restore=False,
            )
        )

    return Canvas(redraw=redraw, size=family.size, multiple=family.multiple)
